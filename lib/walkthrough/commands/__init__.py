"""The commands of ``deeplabv3``, one module each: ``add`` declares its options, ``main`` runs it."""

"""The verbs of the command ``deeplabv3``, one module each: ``add`` declares its options, ``main`` does it."""

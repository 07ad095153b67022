"""Data sets on disk: fetched, put together and looked over, as the commands ``deeplabv3 data`` and ``train`` do."""

"""The one exception for mistakes that a user can make and mend."""


class UserError(Exception):
    """One clear sentence that names the file or setting at fault and the remedy.

    The command line prints it and exits with code 1; everything else is a defect and keeps its traceback.
    """

"""The errors that users see. Apart from everything else, so that the command line starts without torch."""


class UserError(ValueError):
    """Bad input. The message names the file, key or value at fault and the way out."""


class AbsentError(UserError):
    """Data that were never put there, as opposed to wrong: an optional set is left out, anything else is an error."""

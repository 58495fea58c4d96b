"""The one exception that users see."""


class TritloomError(Exception):
    """Something the user can act on; the message is the one line the command prints.

    The line says what is wrong and, where it is not obvious, what to do. The command line prints it on the error
    stream and exits with status 1; it never prints a traceback for one of these.
    """

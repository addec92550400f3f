"""The root of every error that PAST itself raises."""


class PastError(Exception):
    """Base of PAST's errors.

    A concrete error stands beside the function that raises it and also derives from a builtin
    (`class StoreError(PastError, ValueError)`). Its message says what was found, where, what was
    expected and what to do; the commands print that message and exit with status 1.
    """

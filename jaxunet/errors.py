"""The one exception that means "the user can fix this": printed as one sentence, without a traceback."""


class UserError(Exception):
    """A mistake in the user's input: says what is wrong, where (file, key, shape) and what to do."""

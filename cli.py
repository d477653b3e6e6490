"""Which verbs does a person have? One function per verb; a heavy import happens inside its verb."""


def main() -> int:
    """Run the verb named on the command line; the return value is the exit code."""
    return 0

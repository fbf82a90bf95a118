"The command line, called in this process"

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from medsoft_nb.apps.cli import main


def medsoft(*words):
    "Exit status, and what is printed on both streams"
    out, code = StringIO(), 0
    with redirect_stdout(out), redirect_stderr(out):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue()

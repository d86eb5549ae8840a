"""How commands show their `--help`."""

from __future__ import annotations

import re

from typer.core import TyperCommand

_TYPE = re.compile(r" <[^<>]*>$")  # "TEXT <str>": the name says what it is
_RANGE = re.compile(r"(?:; )?(?<=[ ;\[])(?:[\d.]+<=?)?x[<>]=?[\d.]+(?=[;\]])")  # "[default: 4; 2<=x<=9]"
_EMPTY = re.compile(r"  \\?\[\]$")


class PlainHelp(TyperCommand):
    """A command whose help is about what to type, without the Python types and ranges that typer adds."""

    def format_options(self, ctx, formatter):
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            params = [p for p in self.get_params(ctx) if p.param_type_name == kind]
            rows = [record for p in params if (record := p.get_help_record(ctx)) is not None]
            if not rows:
                continue
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (_TYPE.sub("", name) if kind == "argument" else name, _EMPTY.sub("", _RANGE.sub("", help)))
                        for name, help in rows
                    ]
                )

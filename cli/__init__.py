"""The command ``hakg``: each command parses, calls the library and reports.

Nothing heavy is imported until a command runs, so ``hakg --help`` is quick and needs no DGL.
"""

from __future__ import annotations

import os
import sys

import click

from .ablate import ablate_command
from .audit import audit_command
from .benchmark import benchmark_command
from .compare import compare_command
from .doctor import doctor_command
from .evaluate import evaluate_command
from .explain import explain_command
from .export import export_command
from .failures import HakgGroup
from .info import info_command
from .partition import partition_command
from .plot import plot_command
from .preprocess import preprocess_command
from .progress import quiet_option
from .quickstart import quickstart_command
from .recommend import recommend_command
from .report_command import report_command
from .serve import serve_command
from .train import train_command
from .tune import tune_command
from .update import update_command


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    import hakg_dgl
    from hakg_dgl.checkout import commit

    click.echo(f"hakg_dgl {hakg_dgl.__version__} (commit {commit() or 'unknown'})")
    context.exit()


@click.group(
    cls=HakgGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExample, from nothing to recommendations:\n"
    "  hakg preprocess demo --out demo/data\n"
    "  hakg train demo/data --out demo/run\n"
    "  hakg evaluate demo/run\n"
    "  hakg recommend demo/run --user user_7\n",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version, and the commit where it is known.",
)
def main() -> None:
    """Recommend with a knowledge graph in hyperbolic space (HAKG, SIGIR 2022).

    Bad input ends with exit code 2 and a message that says how to fix it; HAKG_DEBUG=1 shows the traceback too.
    """
    # OpenMP reads it when PyTorch is loaded. Threads of PyTorch that wait busily take the processors from Numba's.
    if "torch" not in sys.modules and click.get_current_context().invoked_subcommand != "serve":
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


_LONG = (
    quickstart_command,
    preprocess_command,
    partition_command,
    train_command,
    update_command,
    tune_command,
    ablate_command,
    audit_command,
    benchmark_command,
    evaluate_command,
    compare_command,
    recommend_command,
    explain_command,
    export_command,
    plot_command,
    report_command,
)
for _command in _LONG:
    main.add_command(quiet_option(_command))
for _command in (serve_command, info_command, doctor_command):
    main.add_command(_command)

"""``groundspeed fleet``: register the commands that find slow GPUs, nodes and links."""

import typer

from groundspeed.fleet_commands.export import export_command
from groundspeed.fleet_commands.health import (
    baseline_command,
    dashboard_command,
    healthcheck_command,
)
from groundspeed.fleet_commands.history import history_command
from groundspeed.fleet_commands.links import links_command, rounds_command
from groundspeed.fleet_commands.run import (
    check_device_command,
    daemonset_command,
    run_command,
    work_command,
)
from groundspeed.fleet_commands.screen import screen_command

fleet_app = typer.Typer(
    help="Find the slow GPUs, nodes and links of a cluster, the cause, and what they cost.",
    no_args_is_help=True,
)


@fleet_app.callback()
def _fleet() -> None:
    """Find the slow GPUs, nodes and links of a cluster, the cause, and what they cost."""


fleet_app.command("screen")(screen_command)
fleet_app.command("run")(run_command)
fleet_app.command("history")(history_command)
fleet_app.command("healthcheck")(healthcheck_command)
fleet_app.command("baseline")(baseline_command)
fleet_app.command("links")(links_command)
fleet_app.command("rounds")(rounds_command)
fleet_app.command("export")(export_command)
fleet_app.command("daemonset")(daemonset_command)
fleet_app.command("dashboard")(dashboard_command)
fleet_app.command("work", hidden=True)(work_command)
fleet_app.command("check-device", hidden=True)(check_device_command)

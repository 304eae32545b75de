"""`douane`: the commands, each imported only when it is used."""

from __future__ import annotations

import importlib

import click

from gateway import __version__

COMMANDS = {
    "audit": ("gateway.cli.audit", "audit", "Read and check the audit's records."),
    "demo": (
        "gateway.cli.demo",
        "demo",
        "A short tour on this machine: spill-over, residency, cache, receipts.",
    ),
    "doctor": ("gateway.cli.doctor", "doctor", "Check the AWS account and this machine; says what to fix."),
    "egress": (
        "gateway.cli.egress",
        "egress",
        "List every host that this gateway may connect to, for which place and why.",
    ),
    "explain": (
        "gateway.cli.explain",
        "explain",
        "Say from the audit alone why a request went where it went.",
    ),
    "init": ("gateway.cli.init", "init", "Make the keys that a gateway needs."),
    "log": ("gateway.cli.log", "log", "Read the content log."),
    "policy": (
        "gateway.cli.policy",
        "policy",
        "Check, test, prove, compare, explain and export a policy bundle.",
    ),
    "receipt": ("gateway.cli.receipt", "receipt", "Verify receipts; make signing keys."),
    "serve": ("gateway.cli.serve", "serve", "Run the gateway, and a local engine when a model is set."),
    "store": ("gateway.cli.store", "store", "Look after the store that gateways share."),
    "tenant": ("gateway.cli.tenant", "tenant", "List tenants' keys; destroy the key of one."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and summaries, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup)
@click.version_option(__version__, prog_name="douane")
def main() -> None:
    """Douane: one endpoint for gpt-oss, residency by written policy, a signed receipt on every answer.

    Exit codes: 0 good, 1 a check failed, 2 denied, 3 invalid input.
    """


if __name__ == "__main__":
    main()

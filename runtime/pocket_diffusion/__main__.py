"""The command line: `pocket-diffusion`, or `python -m pocket_diffusion`."""

from pocket_diffusion.interrupts import end_at_once, handled_by


def main() -> None:
    """Import the command line and run it."""
    with handled_by(end_at_once):
        from pocket_diffusion import cli
    cli.main()


if __name__ == "__main__":
    main()

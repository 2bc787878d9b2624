"""`python -m pocket_diffusion`: the command line."""

from pocket_diffusion.cli import main

if __name__ == "__main__":
    main()

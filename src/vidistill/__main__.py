"""`python -m vidistill`, which is what `torchrun -m vidistill` starts."""

from vidistill.cli.main import main

main()

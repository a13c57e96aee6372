"""`python -m fp8scope`."""

from fp8scope.cli.app import main

main()

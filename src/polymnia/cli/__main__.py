"""python -m polymnia.cli"""

from polymnia.cli import main

main()

"""``python -m trio_eventlog.cli``."""

from trio_eventlog.cli import main

if __name__ == "__main__":
    main()

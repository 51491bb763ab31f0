"""``python -m trio_eventlog``."""

from trio_eventlog.cli import main

if __name__ == "__main__":
    main()

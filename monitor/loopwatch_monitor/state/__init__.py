"""What the monitor knows: pure folds over events. No I/O, no clock of its own; every table has a bound."""

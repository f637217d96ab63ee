"""What bringing a server up consists of, in order, as it is journalled."""

START, HASHES, WARM_UP, CANARY, READINESS_ON = PHASES = ("start", "hashes", "warm_up", "canary", "readiness_on")

"""The tables of the ledger: one row for each row of each request that reached preprocess, and the load of each boot."""

ADMITTED, SETTLED, REFUSED, CANCELLED, LOST = STATES = ("admitted", "settled", "refused", "cancelled", "lost")

TABLES = """
CREATE TABLE IF NOT EXISTS request (
    id INTEGER PRIMARY KEY,                 -- unique, unlike the client's request_id
    request_id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    task TEXT NOT NULL,
    schema_id TEXT NOT NULL,
    engine_hash TEXT NOT NULL,
    boot_id TEXT NOT NULL,                  -- the start of tritonserver that admitted it
    row_number INTEGER NOT NULL,            -- its place in a request of several rows
    canary INTEGER NOT NULL,
    num_prompt_tokens INTEGER NOT NULL,
    num_completion_tokens INTEGER NOT NULL DEFAULT 0,
    projected_nano_usd INTEGER NOT NULL,    -- the worst case
    actual_nano_usd INTEGER NOT NULL,       -- what is known so far: the prompt alone until it is settled
    queue_delay_us INTEGER,
    flags TEXT NOT NULL DEFAULT '',         -- separated by commas
    state TEXT NOT NULL CHECK (state IN ('admitted', 'settled', 'refused', 'cancelled', 'lost')),
    swept_as TEXT NOT NULL DEFAULT '',      -- settled after it had been given up: the state that it had then
    code TEXT NOT NULL DEFAULT '',          -- why it was refused
    admitted_ns INTEGER NOT NULL,           -- Unix time, of a refusal too
    closed_ns INTEGER                       -- Unix time
);
CREATE INDEX IF NOT EXISTS request_open ON request (admitted_ns) WHERE state = 'admitted';
CREATE TABLE IF NOT EXISTS boot (
    boot_id TEXT PRIMARY KEY,
    num_open INTEGER NOT NULL DEFAULT 0,        -- requests admitted and neither answered nor given up
    num_unanswered INTEGER NOT NULL DEFAULT 0,  -- requests that the parent knows to have died in the engine
    num_swept INTEGER NOT NULL DEFAULT 0        -- those of them that were given up since
) WITHOUT ROWID;
"""

-- What the client of a request has in the servers: counter 2 of its stream, of the table `in_flight`.

local COUNTER, ABANDONED, MESSAGES, ANSWERS = 2, 0, 1, 2

local InFlight = {}

local function increment(txn, general_counter, count)
  for _ = 1, count do txn.f:sc_inc_gpc(general_counter, COUNTER) end
end

-- Requests in flight, open streams, messages of streams that wait for an answer, and requests abandoned of late.
function InFlight.num_requests(txn)
  local fetches = txn.f
  return fetches:sc_conn_cur(COUNTER) + fetches:sc_gpc_rate(ABANDONED, COUNTER)
    + fetches:sc_get_gpc(MESSAGES, COUNTER) - fetches:sc_get_gpc(ANSWERS, COUNTER)
end

function InFlight.count_messages(txn, count) increment(txn, MESSAGES, count) end

function InFlight.count_answers(txn, count) increment(txn, ANSWERS, count) end

function InFlight.count_abandoned(txn, count) increment(txn, ABANDONED, count) end

return InFlight

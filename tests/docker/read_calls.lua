-- Feeds calls from standard input to the gateway's guard. A line is one call, `method max_bytes hex[,hex…]`, with one
-- hex text for each piece that arrives. Prints `allowed`, or `rejected <status> <bytes forwarded> <reason>`.

local Reader = dofile(arg[1])

local function decode(hex)
  return (hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function check(method, max_bytes, pieces)
  local reader, num_forwarded = Reader.new(method, tonumber(max_bytes)), 0
  if not reader then return "rejected 12 0 unknown method" end
  for piece in pieces:gmatch("[^,]+") do
    local bytes = decode(piece)
    local status, reason = reader:feed(bytes)
    if status then return ("rejected %d %d %s"):format(status, num_forwarded, reason) end
    num_forwarded = num_forwarded + #bytes
  end
  local status, reason = reader:finish()
  return status and ("rejected %d %d %s"):format(status, num_forwarded, reason) or "allowed"
end

for line in io.lines() do
  local method, max_bytes, pieces = line:match("^(%w+) (%d+) (.*)$")
  io.write(check(method, max_bytes, pieces), "\n")
  io.flush()
end

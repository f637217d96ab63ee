-- Reads calls from standard input with the gateway's guard: one a line, `method max_bytes hex[,hex…]`, a hex text for each
-- piece that arrives. Answers `pass`, or `refused <status> <bytes handed on> <reason>`.

local Reader = dofile(arg[1])

local function decode(hex)
  return (hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function verdict(method, max_bytes, pieces)
  local reader, num_handed_on = Reader.new(method, tonumber(max_bytes)), 0
  if not reader then return "refused 12 0 unknown method" end
  for piece in pieces:gmatch("[^,]+") do
    local bytes = decode(piece)
    local status, reason = reader:feed(bytes)
    if status then return ("refused %d %d %s"):format(status, num_handed_on, reason) end
    num_handed_on = num_handed_on + #bytes
  end
  local status, reason = reader:finish()
  return status and ("refused %d %d %s"):format(status, num_handed_on, reason) or "pass"
end

for line in io.lines() do
  local method, max_bytes, pieces = line:match("^(%w+) (%d+) (.*)$")
  io.write(verdict(method, max_bytes, pieces), "\n")
  io.flush()
end

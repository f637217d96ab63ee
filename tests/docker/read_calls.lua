-- Feeds calls and bodies from standard input to the readers of the gateway's guard. The argument is their directory. A line
-- is `grpc <method> <max bytes> hex[,hex…]`, or `json <call> <bytes of JSON> hex[,hex…]`, with one hex text for each piece
-- that arrives. Prints `allowed`, or `rejected <status> <bytes forwarded> <reason>`; a body's status is 400. For
-- `answers - 0 hex[,hex…]`, what a server sends on a stream, it prints how many answers end in each piece.

package.path = arg[1] .. "/?.lua"
local GrpcReader, JsonReader, Rules = require("grpc_reader"), require("json_reader"), require("request_rules")
local GrpcAnswers = require("grpc_answers")

local function decode(hex)
  return (hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function rejected(status, num_forwarded, reason)
  return ("rejected %d %d %s"):format(status, num_forwarded, reason)
end

local function check_call(method, max_bytes, pieces)
  local reader, num_forwarded = GrpcReader.new(method, tonumber(max_bytes)), 0
  if not reader then return rejected(12, 0, "unknown method") end
  for piece in pieces:gmatch("[^,]+") do
    local bytes = decode(piece)
    local status, reason = reader:feed(bytes)
    if status then return rejected(status, num_forwarded, reason) end
    num_forwarded = num_forwarded + #bytes
  end
  local status, reason = reader:finish()
  return status and rejected(status, num_forwarded, reason) or "allowed"
end

local function check_body(call, json_bytes, pieces)
  json_bytes = tonumber(json_bytes)
  local num_forwarded, num_bytes = 0, #pieces:gsub(",", "") // 2
  local reader = JsonReader.new(Rules.of(call, num_bytes - json_bytes))
  for piece in pieces:gmatch("[^,]+") do
    local bytes = decode(piece)
    local reason = reader:feed(bytes:sub(1, math.max(json_bytes - num_forwarded, 0)))
    if reason then return rejected(400, num_forwarded, reason) end
    num_forwarded = num_forwarded + #bytes
  end
  return reader:is_complete() and "allowed" or rejected(400, num_forwarded, "the body is not JSON")
end

local function count_answers(_, _, pieces)
  local answers, counts = GrpcAnswers.new(), {}
  for piece in pieces:gmatch("[^,]+") do counts[#counts + 1] = answers:feed(decode(piece)) end
  return table.concat(counts, " ")
end

local CHECKS = { grpc = check_call, json = check_body, answers = count_answers }

for line in io.lines() do
  local kind, name, size, pieces = line:match("^(%w+) ([%w_-]+) (%d+) (.*)$")
  io.write(CHECKS[kind](name, size, pieces), "\n")
  io.flush()
end

-- Prints how long the guard's readers take for one request of about 20 kB, in pieces as HAProxy's buffers hold them:
--
--   lua5.3 tests/docker/time_guard.lua tools/llmstack/gateway

package.path = arg[1] .. "/?.lua"
local GrpcReader, JsonReader, Rules = require("grpc_reader"), require("json_reader"), require("request_rules")
local PIECE_BYTES, NUM_RUNS = 15360, 2000

local function pieces_of(body)
  local pieces = {}
  for start = 1, #body, PIECE_BYTES do pieces[#pieces + 1] = body:sub(start, start + PIECE_BYTES - 1) end
  return pieces
end

local function read_json(call)
  return function(body, pieces)
    local reader = JsonReader.new(Rules.of(call, 0))
    for _, piece in ipairs(pieces) do assert(not reader:feed(piece)) end
    assert(reader:is_complete(), body:sub(1, 80))
  end
end

local function read_grpc(_, pieces)
  local reader = GrpcReader.new("ModelInfer", 1 << 22)
  for _, piece in ipairs(pieces) do assert(not reader:feed(piece)) end
  assert(not reader:finish())
end

local function infer(text)
  return '{"inputs":[{"name":"messages","shape":[1,1],"datatype":"BYTES","data":["' .. text .. '"]},'
    .. '{"name":"max_tokens","shape":[1,1],"datatype":"INT32","data":[64]}],"outputs":[{"name":"text_output"}]}'
end

local function grpc(text)
  local length = #text
  local varint = string.char(length & 0x7f | 0x80, length >> 7 & 0x7f | 0x80, length >> 14)
  local message = "\x0a\x08ensemble\x2a\x19\x0a\x0atext_input\x12\x05BYTES\x1a\x04\x01\x01\x01\x01\x3a" .. varint .. text
  return "\0" .. string.pack(">I4", #message) .. message
end

local text = ("The quick brown fox jumps over the lazy dog. "):rep(440)
local schema = ('{\\"type\\":\\"string\\",\\"minLength\\":1},'):rep(520)
local words = ('"word",'):rep(1024)
local member = '"name_%d":{"type":"string","minLength":1},'
local members = {}
for number = 1, 500 do members[number] = member:format(number) end
local members_text = table.concat(members)
local CASES = {
  { "infer, plain text", read_json("infer"), infer(text) },
  { "infer, a JSON text with an escape every 8 bytes", read_json("infer"), infer(schema) },
  { "generate, plain text", read_json("generate"), '{"text_input":"' .. text .. '","max_tokens":64}' },
  { "generate, 1,024 stop words", read_json("generate"), '{"text_input":"a","stop_words":[' .. words .. '"end"]}' },
  { "openai, plain text", read_json("openai"), '{"model":"a","messages":[{"role":"user","content":"' .. text .. '"}]}' },
  { "openai, a schema of 500 members", read_json("openai"), '{"schema":{"properties":{' .. members_text .. '"end":{}}}}' },
  { "gRPC, plain text", read_grpc, grpc(text) },
}

for _, case in ipairs(CASES) do
  local name, read, body = table.unpack(case)
  local pieces, times = pieces_of(body), {}
  for run = 1, NUM_RUNS do
    local start = os.clock()
    read(body, pieces)
    times[run] = (os.clock() - start) * 1000
  end
  table.sort(times)
  print(("%-48s %6d bytes  p50 %.3f ms  p99 %.3f ms"):format(name, #body, times[NUM_RUNS // 2], times[NUM_RUNS * 99 // 100]))
end

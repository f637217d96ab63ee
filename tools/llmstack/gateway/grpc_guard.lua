-- What a gRPC call may say, read while it passes through HAProxy.
--
-- HAProxy's own converter, ungrpc(1), reads the first model name in the first message that happens to be buffered.
-- Protobuf takes the last one of a message, and a stream has many messages. So this reader follows every byte of every
-- message, and stops the call before the last byte of one that it can't vouch for: Triton never has that message whole.
--
-- It is stricter than protobuf, and what it doesn't know it refuses. A message is fields of one length-delimited form;
-- the tag of each is one byte; a length is written as short as can be; the model is named exactly once.

local MODEL = "ensemble"
local MODEL_NAME_TAG = 0x0a
local FRAME_BYTES = 5 -- a flag byte (1: compressed) and four bytes of length
local MAX_FIELDS = 1024 -- of one message; a full request of every input and output has less than 100

-- gRPC statuses: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
local INVALID_ARGUMENT, DEADLINE_EXCEEDED, PERMISSION_DENIED = 3, 4, 7
local RESOURCE_EXHAUSTED, UNIMPLEMENTED = 8, 12

local function tags(...)
  local set = {}
  for _, tag in ipairs({ ... }) do set[tag] = true end
  return set
end

-- Model name (0x0a), id, parameters, inputs, outputs, raw contents. No version (0x12): the gateway knows one ensemble.
local INFER = tags(MODEL_NAME_TAG, 0x1a, 0x22, 0x2a, 0x32, 0x3a)
local CALLS = {
  ModelInfer = { tags = INFER, names_model = true },
  ModelStreamInfer = { tags = INFER, names_model = true, is_stream = true },
  ModelReady = { tags = tags(MODEL_NAME_TAG), names_model = true },
  ModelMetadata = { tags = tags(MODEL_NAME_TAG), names_model = true },
  ServerLive = { tags = tags() },
  ServerReady = { tags = tags() },
}

local Reader = {}
Reader.__index = Reader

-- A reader of one call: `method` is the last part of its path. Nil for a method that may not pass.
function Reader.new(method, max_message_bytes)
  if not CALLS[method] then return nil end
  local reader = { call = CALLS[method], max_message_bytes = max_message_bytes, num_messages = 0, unread = "" }
  reader.step = Reader.read_frame
  return setmetatable(reader, Reader)
end

-- Take the next bytes. Returns nothing when they may pass, else a gRPC status and why.
function Reader:feed(bytes)
  local text, at = self.unread .. bytes, 1
  while at do
    local next_at, status, reason = self.step(self, text, at)
    if status then return status, reason end
    if not next_at then break end
    at = next_at
  end
  self.unread = text:sub(at)
end

-- The client sends no more.
function Reader:finish()
  if self.step ~= Reader.read_frame or self.unread ~= "" then return INVALID_ARGUMENT, "the message is cut short" end
  if self.num_messages ~= 1 and not self.call.is_stream then return INVALID_ARGUMENT, "the call has no message" end
end

function Reader:is_inside_message()
  return self.step ~= Reader.read_frame or self.unread ~= ""
end

-- Each step reads one thing at `at`. It returns the position behind it, nil to wait for more, or a status and why.

function Reader:read_frame(text, at)
  if #text - at + 1 < FRAME_BYTES then return nil end
  local flag, size = string.unpack(">BI4", text, at)
  if flag ~= 0 then return nil, UNIMPLEMENTED, "compressed messages are not taken" end
  if size > self.max_message_bytes then
    return nil, RESOURCE_EXHAUSTED, "the message has " .. size .. " bytes, limit " .. self.max_message_bytes
  end
  self.num_messages = self.num_messages + 1
  if self.num_messages > 1 and not self.call.is_stream then
    return nil, INVALID_ARGUMENT, "the call has more than one message"
  end
  self.left, self.num_fields, self.is_named, self.step = size, 0, false, Reader.read_field
  return at + FRAME_BYTES
end

function Reader:read_field(text, at)
  if self.left == 0 then
    if self.call.names_model and not self.is_named then return nil, PERMISSION_DENIED, "no model is named" end
    self.step = Reader.read_frame
    return at
  end
  local tag = text:byte(at)
  if not tag then return nil end
  if not self.call.tags[tag] then return nil, PERMISSION_DENIED, "field tag " .. tag .. " may not pass" end
  local size, value_at, fault = Reader.read_length(text, at + 1)
  if fault then return nil, INVALID_ARGUMENT, fault end
  if not size then return nil end
  self.left, self.num_fields = self.left - (value_at - at) - size, self.num_fields + 1
  if self.left < 0 then return nil, INVALID_ARGUMENT, "a field is longer than its message" end
  if self.num_fields > MAX_FIELDS then return nil, INVALID_ARGUMENT, "the message has too many fields" end
  if tag ~= MODEL_NAME_TAG then
    self.to_skip, self.step = size, Reader.skip_value
  elseif self.is_named then
    return nil, PERMISSION_DENIED, "the model is named twice"
  elseif size ~= #MODEL then
    return nil, PERMISSION_DENIED, "only the model " .. MODEL .. " may be called"
  else
    self.step = Reader.read_model_name
  end
  return value_at
end

-- A length of at most four bytes (protobuf's varint) at `at`: it and the position behind it, nothing to wait for more,
-- or a fault.
function Reader.read_length(text, at)
  local size = 0
  for index = 0, 3 do
    local byte = text:byte(at + index)
    if not byte then return nil end
    size = size | (byte & 0x7f) << (7 * index)
    if byte < 0x80 then
      if byte == 0 and index > 0 then return nil, nil, "a length is written longer than it needs" end
      return size, at + index + 1
    end
  end
  return nil, nil, "a length has more than four bytes"
end

function Reader:read_model_name(text, at)
  if #text - at + 1 < #MODEL then return nil end
  if text:sub(at, at + #MODEL - 1) ~= MODEL then
    return nil, PERMISSION_DENIED, "only the model " .. MODEL .. " may be called"
  end
  self.is_named, self.step = true, Reader.read_field
  return at + #MODEL
end

function Reader:skip_value(text, at)
  local size = math.min(self.to_skip, #text - at + 1)
  self.to_skip = self.to_skip - size
  if self.to_skip > 0 then
    return size > 0 and at + size or nil
  end
  self.step = Reader.read_field
  return at + size
end

-- HAProxy's side.
--
-- A call of one message is read to its end, without handing anything on, before it is refused: a client that is still
-- sending would lose the status. A stream, and whoever sends on and on, is refused at once, by raising an error: where a
-- payload callback returns -1, the documented answer, HAProxy 2.6 takes it as a very large number of bytes to forward.
-- It also forwards what a filter that it could not make, or that ran out of time, did not see; so the configuration
-- refuses what no guard has marked, and sets no time limit.

local SERVICE = "/inference.GRPCInferenceService/"
local EVERYTHING = 0x7fffffff -- bytes to forward; HAProxy takes what there is, and would take nil for none

local Guard = { flags = filter and filter.FLT_CFG_FL_HTX }
Guard.__index = Guard

-- Arguments: grpc or http, the largest message in bytes, and how many seconds one message (or body) may take.
local function configure(guard, arguments)
  guard.is_grpc, guard.max_bytes, guard.max_seconds =
    arguments[1] == "grpc", math.tointeger(tonumber(arguments[2])), tonumber(arguments[3])
  assert(guard.max_bytes and guard.max_seconds, "guard needs: grpc|http max_bytes max_seconds")
  return guard
end

local function note(txn, status, reason)
  txn:set_var("txn.grpc_status", status)
  txn:set_var("txn.reason", reason)
end

local function refuse(txn, status, reason)
  note(txn, status, reason)
  error(reason, 0)
end

function Guard:new()
  return setmetatable({ max_bytes = self.max_bytes, max_seconds = self.max_seconds, is_grpc = self.is_grpc }, Guard)
end

function Guard:start_analyze(txn, channel)
  if channel:is_resp() then return filter.CONTINUE end
  filter.register_data_filter(self, channel)
  txn:set_var("txn.is_guarded", true)
  return filter.CONTINUE
end

function Guard:http_headers(txn, message)
  if message.channel:is_resp() then return filter.CONTINUE end
  self.began_s, self.num_bytes = core.now().sec, 0
  if not self.is_grpc then return filter.CONTINUE end
  local path = txn.f:path()
  if path:sub(1, #SERVICE) == SERVICE then self.reader = Reader.new(path:sub(#SERVICE + 1), self.max_bytes) end
  if not self.reader then refuse(txn, UNIMPLEMENTED, "this method may not be called") end
  return filter.CONTINUE
end

function Guard:http_payload(txn, message)
  if message.channel:is_resp() then return EVERYTHING end
  if self.is_grpc then self:read(txn, message) end
  if core.now().sec - self.began_s > self.max_seconds then
    refuse(txn, DEADLINE_EXCEEDED, "the body came too slowly")
  end
  return EVERYTHING
end

-- Read the bytes of a gRPC call that are here, and take them away from one that will be refused.
function Guard:read(txn, message)
  local bytes = message:body() or ""
  if not self.is_refused then
    if not self.reader:is_inside_message() then self.began_s = core.now().sec end
    local status, reason = self.reader:feed(bytes)
    if not status then return end
    if self.reader.call.is_stream then refuse(txn, status, reason) end
    note(txn, status, reason)
    self.is_refused = true
  end
  self.num_bytes = self.num_bytes + #bytes
  if self.num_bytes > 4 * self.max_bytes then refuse(txn, RESOURCE_EXHAUSTED, "the call does not end") end
  message:remove()
end

function Guard:http_end(txn, message)
  if message.channel:is_resp() or not self.is_grpc then return filter.CONTINUE end
  if self.is_refused then return filter.ERROR end
  local status, reason = self.reader:finish()
  if not status then return filter.CONTINUE end
  note(txn, status, reason)
  return filter.ERROR
end

if core then core.register_filter("guard", Guard, configure) end

return Reader

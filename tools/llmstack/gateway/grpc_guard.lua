-- Checks every message of a gRPC call while HAProxy forwards it, and rejects calls to any model but the ensemble.
--
-- HAProxy's own converter, ungrpc(1), reads the first model name in the first buffered message. Protobuf uses the last
-- name of a message, and a stream has many messages. So this reader parses every byte of every message and rejects a
-- call before the last byte of an invalid message: Triton never receives that message completely.
--
-- The reader is stricter than protobuf and rejects what it does not know. All fields of a message are length-delimited;
-- each tag has one byte; each length has its shortest encoding; the model is named exactly once.

local MODEL = "ensemble"
local MODEL_NAME_TAG = 0x0a
local FRAME_BYTES = 5 -- a flag (1: compressed) and the length in four bytes
local MAX_FIELDS = 1024 -- in one message; a request with every input and output has fewer than 100

-- gRPC statuses: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
local INVALID_ARGUMENT, DEADLINE_EXCEEDED, PERMISSION_DENIED = 3, 4, 7
local RESOURCE_EXHAUSTED, UNIMPLEMENTED = 8, 12

local function tags(...)
  local set = {}
  for _, tag in ipairs({ ... }) do set[tag] = true end
  return set
end

-- Model name (0x0a), id, parameters, inputs, outputs, raw contents. A version (0x12) is not allowed.
local INFER_TAGS = tags(MODEL_NAME_TAG, 0x1a, 0x22, 0x2a, 0x32, 0x3a)
local CALLS = {
  ModelInfer = { tags = INFER_TAGS, needs_model = true },
  ModelStreamInfer = { tags = INFER_TAGS, needs_model = true, is_stream = true },
  ModelReady = { tags = tags(MODEL_NAME_TAG), needs_model = true },
  ModelMetadata = { tags = tags(MODEL_NAME_TAG), needs_model = true },
  ServerLive = { tags = tags() },
  ServerReady = { tags = tags() },
}

local Reader = {}
Reader.__index = Reader

-- Returns a reader for one call, or nil when the method is not allowed. `method` is the last part of the call's path.
function Reader.new(method, max_message_bytes)
  if not CALLS[method] then return nil end
  local reader = { call = CALLS[method], max_message_bytes = max_message_bytes, num_messages = 0, unread = "" }
  reader.step = Reader.read_frame
  return setmetatable(reader, Reader)
end

-- Parses the next bytes. Returns nothing when they are valid, else a gRPC status and the reason.
function Reader:feed(bytes)
  local text, position = self.unread .. bytes, 1
  while true do
    local next_position, status, reason = self.step(self, text, position)
    if status then return status, reason end
    if not next_position then break end
    position = next_position
  end
  self.unread = text:sub(position)
end

-- Called when the client has sent everything. Returns nothing, or a gRPC status and the reason.
function Reader:finish()
  if self.step ~= Reader.read_frame or self.unread ~= "" then return INVALID_ARGUMENT, "the message is incomplete" end
  if self.num_messages ~= 1 and not self.call.is_stream then return INVALID_ARGUMENT, "the call has no message" end
end

function Reader:is_inside_message()
  return self.step ~= Reader.read_frame or self.unread ~= ""
end

-- Each step parses one element at `position`. It returns the position after the element; nil when it needs more bytes;
-- or nil, a gRPC status and the reason.

function Reader:read_frame(text, position)
  if #text - position + 1 < FRAME_BYTES then return nil end
  local flag, size = string.unpack(">BI4", text, position)
  if flag ~= 0 then return nil, UNIMPLEMENTED, "compressed messages are not supported" end
  if size > self.max_message_bytes then
    return nil, RESOURCE_EXHAUSTED, "the message has " .. size .. " bytes, limit " .. self.max_message_bytes
  end
  self.num_messages = self.num_messages + 1
  if self.num_messages > 1 and not self.call.is_stream then
    return nil, INVALID_ARGUMENT, "the call has more than one message"
  end
  self.bytes_left, self.num_fields, self.has_model, self.step = size, 0, false, Reader.read_field
  return position + FRAME_BYTES
end

function Reader:read_field(text, position)
  if self.bytes_left == 0 then
    if self.call.needs_model and not self.has_model then return nil, PERMISSION_DENIED, "the message names no model" end
    self.step = Reader.read_frame
    return position
  end
  local tag = text:byte(position)
  if not tag then return nil end
  if not self.call.tags[tag] then return nil, PERMISSION_DENIED, "field tag " .. tag .. " is not allowed" end
  local size, value_position, length_error = Reader.read_length(text, position + 1)
  if length_error then return nil, INVALID_ARGUMENT, length_error end
  if not size then return nil end
  self.bytes_left, self.num_fields = self.bytes_left - (value_position - position) - size, self.num_fields + 1
  if self.bytes_left < 0 then return nil, INVALID_ARGUMENT, "a field is longer than its message" end
  if self.num_fields > MAX_FIELDS then return nil, INVALID_ARGUMENT, "the message has too many fields" end
  if tag ~= MODEL_NAME_TAG then
    self.bytes_to_skip, self.step = size, Reader.skip_value
  elseif self.has_model then
    return nil, PERMISSION_DENIED, "the message names a model twice"
  elseif size ~= #MODEL then
    return nil, PERMISSION_DENIED, "only the model " .. MODEL .. " may be called"
  else
    self.step = Reader.read_model_name
  end
  return value_position
end

-- Parses a length (a protobuf varint of at most four bytes). Returns it and the position after it; nil when it needs
-- more bytes; or nil, nil and an error.
function Reader.read_length(text, position)
  local size = 0
  for index = 0, 3 do
    local byte = text:byte(position + index)
    if not byte then return nil end
    size = size | (byte & 0x7f) << (7 * index)
    if byte < 0x80 then
      if byte == 0 and index > 0 then return nil, nil, "a length is not encoded in its shortest form" end
      return size, position + index + 1
    end
  end
  return nil, nil, "a length has more than four bytes"
end

function Reader:read_model_name(text, position)
  if #text - position + 1 < #MODEL then return nil end
  if text:sub(position, position + #MODEL - 1) ~= MODEL then
    return nil, PERMISSION_DENIED, "only the model " .. MODEL .. " may be called"
  end
  self.has_model, self.step = true, Reader.read_field
  return position + #MODEL
end

function Reader:skip_value(text, position)
  local size = math.min(self.bytes_to_skip, #text - position + 1)
  self.bytes_to_skip = self.bytes_to_skip - size
  if self.bytes_to_skip > 0 then
    return size > 0 and position + size or nil
  end
  self.step = Reader.read_field
  return position + size
end

-- The HAProxy filter.
--
-- An invalid call of one message is read to its end, without forwarding any more of it, before it is rejected: a client
-- that is still sending would lose the status. A stream, or a call that is far too long, is rejected immediately by
-- raising an error. The documented way, returning -1 from a payload callback, does not work: HAProxy 2.6 takes it as a
-- very large number of bytes to forward. HAProxy also forwards the data of a filter that it could not create or that
-- timed out. So the configuration rejects requests that no guard has marked, and sets no time limit for Lua.

local SERVICE = "/inference.GRPCInferenceService/"
local ALL_BYTES = 0x7fffffff -- forward what is there; HAProxy would take nil as none

local Guard = { flags = filter and filter.FLT_CFG_FL_HTX }
Guard.__index = Guard

-- Arguments: grpc or http, the largest message in bytes, and the time limit for one message (or body) in seconds.
local function configure(guard, arguments)
  guard.is_grpc, guard.max_bytes, guard.max_seconds =
    arguments[1] == "grpc", math.tointeger(tonumber(arguments[2])), tonumber(arguments[3])
  assert(guard.max_bytes and guard.max_seconds, "arguments of guard: grpc|http max_bytes max_seconds")
  return guard
end

local function set_error(txn, status, reason)
  txn:set_var("txn.grpc_status", status)
  txn:set_var("txn.reason", reason)
end

local function reject(txn, status, reason)
  set_error(txn, status, reason)
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
  self.start_s, self.num_bytes = core.now().sec, 0
  if not self.is_grpc then return filter.CONTINUE end
  local path = txn.f:path()
  if path:sub(1, #SERVICE) == SERVICE then self.reader = Reader.new(path:sub(#SERVICE + 1), self.max_bytes) end
  if not self.reader then reject(txn, UNIMPLEMENTED, "this method is not allowed") end
  return filter.CONTINUE
end

function Guard:http_payload(txn, message)
  if message.channel:is_resp() then return ALL_BYTES end
  if self.is_grpc then self:read(txn, message) end
  if core.now().sec - self.start_s > self.max_seconds then
    reject(txn, DEADLINE_EXCEEDED, "the body was sent too slowly")
  end
  return ALL_BYTES
end

-- Parses the buffered bytes of a gRPC call. Removes them when the call will be rejected.
function Guard:read(txn, message)
  local bytes = message:body() or ""
  if not self.is_rejected then
    if not self.reader:is_inside_message() then self.start_s = core.now().sec end
    local status, reason = self.reader:feed(bytes)
    if not status then return end
    if self.reader.call.is_stream then reject(txn, status, reason) end
    set_error(txn, status, reason)
    self.is_rejected = true
  end
  self.num_bytes = self.num_bytes + #bytes
  if self.num_bytes > 4 * self.max_bytes then reject(txn, RESOURCE_EXHAUSTED, "the call is too long") end
  message:remove()
end

function Guard:http_end(txn, message)
  if message.channel:is_resp() or not self.is_grpc then return filter.CONTINUE end
  if self.is_rejected then return filter.ERROR end
  local status, reason = self.reader:finish()
  if not status then return filter.CONTINUE end
  set_error(txn, status, reason)
  return filter.ERROR
end

if core then core.register_filter("guard", Guard, configure) end

return Reader

-- Parses every byte of every message of a gRPC call, and rejects a call before the last byte of an invalid message: Triton
-- never receives that message completely.
--
-- HAProxy's own converter, ungrpc(1), reads the first model name in the first buffered message. Protobuf uses the last
-- name of a message, and a stream has many messages.
--
-- The reader is stricter than protobuf and rejects what it does not know. All fields of a message are length-delimited;
-- each tag has one byte; each length has its shortest encoding; what protobuf would merge is given once. Inputs, outputs
-- and parameters must be those of the ensemble, or of the model that streams its answers.

local ApiKey = require("api_key")
local Ensemble = require("ensemble")
local Rules = require("request_rules")

local MODEL, STREAM_MODEL = Ensemble.MODEL, Ensemble.STREAM_MODEL
local FRAME_BYTES = 5 -- a flag (1: compressed) and the length in four bytes
local MAX_FIELDS = 2048 -- in one message with its inputs; a request with every input and output has fewer than 200
local MAX_NAME_BYTES, MAX_ID_BYTES, MAX_PARAMETER_BYTES = 128, 1024, 256
local MAX_ROWS, MAX_DIMENSION, MAX_DIMENSIONS = 1024, 65536, 4
local MAX_VARINT_BYTES = 10
local MAX_TIMEOUT = 2 ^ 53

-- gRPC statuses: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
local INVALID_ARGUMENT, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 3, 7, 8, 12

local Reader = {}
Reader.__index = Reader

-- Parses a base-128 number at `position` of a complete field. Returns it and the position after it, or nothing.
local function read_varint(bytes, position)
  local number = 0
  for index = 0, MAX_VARINT_BYTES - 1 do
    local byte = bytes:byte(position + index)
    if not byte then return nil end
    if index < 9 or byte == 1 or byte == 0 then number = number | (byte & 0x7f) << (7 * index) else return nil end
    if byte < 0x80 then return number, position + index + 1 end
  end
end

-- The numbers of a packed field, or nothing.
local function read_packed(bytes)
  local numbers, position = {}, 1
  while position <= #bytes do
    local number
    number, position = read_varint(bytes, position)
    if not number then return nil end
    numbers[#numbers + 1] = number
  end
  return numbers
end

-- A field's description:
--   max       the most bytes of its value, which `take(reader, level, value)` gets whole; it returns nothing or a reason
--   fields    the value is a message of these fields; `open(level)` and `close(reader, level)` are called around it
--   is_single a second one would be merged or replace the first
-- A field with none of these is not looked at.
local ANY = {}

local function text(key, max)
  return { max = max, is_single = true, take = function(_, level, value) level[key] = value end }
end

local function take_dimensions(_, level, value)
  local numbers = read_packed(value)
  if not numbers or #numbers > MAX_DIMENSIONS then return "a shape is malformed" end
  for index, number in ipairs(numbers) do
    if number < 0 or number > MAX_DIMENSION then return "a dimension of a shape is out of range" end
    if index == 1 and (number == 0 or number > MAX_ROWS) then return "the number of rows is out of range" end
  end
  level.has_shape = true
end

-- Protobuf keeps the lowest 32 bits of a larger number.
local function take_int32(_, _, value)
  local numbers = read_packed(value)
  if not numbers then return "a number is malformed" end
  for _, number in ipairs(numbers) do
    if number < -2147483648 or number > 2147483647 then return "a value is out of the range of INT32" end
  end
end

-- Values beside raw_input_contents, of the ensemble's types only.
local CONTENTS = {
  [0x0a] = ANY, -- bool_contents
  [0x12] = { max = MAX_ROWS * MAX_VARINT_BYTES, take = take_int32 }, -- int_contents
  [0x2a] = ANY, -- uint64_contents
  [0x32] = ANY, -- fp32_contents
  [0x42] = ANY, -- bytes_contents
}

local INPUT = {
  [0x0a] = text("name", MAX_NAME_BYTES),
  [0x12] = text("datatype", MAX_NAME_BYTES),
  [0x1a] = { max = MAX_DIMENSIONS * MAX_VARINT_BYTES, is_single = true, take = take_dimensions },
  [0x2a] = { fields = CONTENTS, is_single = true },
}

local function close_input(reader, level)
  local name = level.name or ""
  local data_type = Ensemble.INPUTS[name]
  if not data_type then return "an input has a name that is not allowed" end
  if reader.state.inputs[name] then return "input " .. name .. " is given twice" end
  reader.state.inputs[name] = true
  if level.datatype ~= data_type then return name .. " must have the type " .. data_type end
end

local OUTPUT = { [0x0a] = text("name", MAX_NAME_BYTES) }

local function close_output(reader, level)
  return Rules.take_output(reader.state, level.name or "")
end

-- A parameter that a request may have, as the one encoding of its map entry: key, then value.
local function take_parameter(reader, _, entry)
  local key = entry:match("^\x0a([\0-\x7f])")
  key = key and entry:sub(3, 2 + key:byte())
  if not key or #key ~= entry:byte(2) then return "a parameter is malformed" end
  if Ensemble.HEADERS[key:lower()] then return "send " .. key:lower() .. " as metadata" end
  if key ~= "timeout" and key ~= "triton_enable_empty_final_response" then return "a parameter is not allowed" end
  if reader.state[key] then return "parameter " .. key .. " is given twice" end
  reader.state[key] = true
  local size, value = entry:match("^\x12(.)(.*)$", 3 + #key)
  local tag = value and #value == size:byte() and value:byte(1)
  local number, stop = read_varint(value or "", 2)
  if not number or stop ~= #value + 1 then return "parameter " .. key .. " is malformed" end
  if key == "timeout" then
    if tag ~= 0x10 or number < 0 or number > MAX_TIMEOUT then return "timeout is out of range" end
  elseif tag ~= 0x08 then
    return "parameter " .. key .. " must be a boolean"
  end
end

local function model_name(models, reason)
  return {
    max = #STREAM_MODEL, is_single = true, status = PERMISSION_DENIED, too_long = reason,
    take = function(reader, _, value)
      if not models[value] then return reason end
      reader.model = value
    end,
  }
end

local ENSEMBLE_ONLY = model_name({ [MODEL] = true }, "only the model " .. MODEL .. " may be called")
local BOTH_MODELS = model_name(
  { [MODEL] = true, [STREAM_MODEL] = true }, "only the models " .. MODEL .. " and " .. STREAM_MODEL .. " may be called"
)

-- A version (0x12) is not allowed.
local function infer_fields(name)
  return {
    [0x0a] = name,
    [0x1a] = {
      max = MAX_ID_BYTES, is_single = true,
      take = function(_, _, value)
        if value:find("\0", 1, true) then return "id has a null character" end
        if ApiKey.is_in(value) then return "id holds an API key" end
      end,
    },
    [0x22] = { max = MAX_PARAMETER_BYTES, take = take_parameter },
    [0x2a] = { fields = INPUT, close = close_input },
    [0x32] = { fields = OUTPUT, close = close_output },
    [0x3a] = ANY, -- raw_input_contents
  }
end

local NAMED = { [0x0a] = BOTH_MODELS }
local CALLS = {
  ModelInfer = { fields = infer_fields(ENSEMBLE_ONLY), needs_model = true },
  ModelStreamInfer = { fields = infer_fields(BOTH_MODELS), needs_model = true, is_stream = true },
  ModelReady = { fields = NAMED, needs_model = true },
  ModelMetadata = { fields = NAMED, needs_model = true },
  ServerLive = { fields = {} },
  ServerReady = { fields = {} },
}

-- Returns a reader for one call, or nil when the method is not allowed. `method` is the last part of the call's path.
function Reader.new(method, max_message_bytes)
  if not CALLS[method] then return nil end
  local reader = { call = CALLS[method], max_message_bytes = max_message_bytes, unread = "" }
  reader.num_messages, reader.num_streaming = 0, 0 -- messages that began, and complete ones to the streaming model
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
  if self:is_inside_message() then return INVALID_ARGUMENT, "the message is incomplete" end
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
  self.level = { fields = self.call.fields, bytes_left = size, seen = {} }
  self.num_fields, self.model, self.state, self.step = 0, nil, Rules.new_state(), Reader.read_field
  return position + FRAME_BYTES
end

function Reader:read_field(text, position)
  local level = self.level
  if level.bytes_left == 0 then return self:close(level, position) end
  local tag = text:byte(position)
  if not tag then return nil end
  local field = level.fields[tag]
  if not field then return nil, PERMISSION_DENIED, "field tag " .. tag .. " is not allowed" end
  local size, value_position, length_error = Reader.read_length(text, position + 1)
  if length_error then return nil, INVALID_ARGUMENT, length_error end
  if not size then return nil end
  level.bytes_left, self.num_fields = level.bytes_left - (value_position - position) - size, self.num_fields + 1
  if level.bytes_left < 0 then return nil, INVALID_ARGUMENT, "a field is longer than its message" end
  if self.num_fields > MAX_FIELDS then return nil, INVALID_ARGUMENT, "the message has too many fields" end
  if field.is_single and level.seen[tag] then return nil, PERMISSION_DENIED, "field tag " .. tag .. " is given twice" end
  level.seen[tag] = true
  return self:enter(field, size, value_position)
end

-- Chooses what to do with the value of `size` bytes at `position`.
function Reader:enter(field, size, position)
  if field.fields then
    self.level = { fields = field.fields, bytes_left = size, seen = {}, around = self.level, close = field.close }
  elseif not field.max then
    self.bytes_to_skip, self.step = size, Reader.skip_value
  elseif size > field.max then
    return nil, field.status or INVALID_ARGUMENT, field.too_long or "a field has more than " .. field.max .. " bytes"
  else
    self.field, self.size, self.step = field, size, Reader.read_value
  end
  return position
end

-- Ends a message: the whole one, or one inside it.
function Reader:close(level, position)
  local reason = level.close and level.close(self, level)
  if reason then return nil, INVALID_ARGUMENT, reason end
  if level.around then
    self.level = level.around
    return position
  end
  if self.call.needs_model and not self.model then return nil, PERMISSION_DENIED, "the message names no model" end
  reason = Rules.output_fault(self.state, self.model)
  if reason then return nil, INVALID_ARGUMENT, reason end
  if self.model == STREAM_MODEL then self.num_streaming = self.num_streaming + 1 end
  self.step = Reader.read_frame
  return position
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

function Reader:read_value(text, position)
  if #text - position + 1 < self.size then return nil end
  local field = self.field
  local reason = field.take(self, self.level, text:sub(position, position + self.size - 1))
  if reason then return nil, field.status or INVALID_ARGUMENT, reason end
  self.step = Reader.read_field
  return position + self.size
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

return Reader

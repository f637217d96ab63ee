-- Counts the requests of a gRPC stream that a server has answered completely. An answer may be many messages: Triton says
-- in the parameter triton_final_response whether one is the last. A message without the parameter is the only one, such as
-- the error of a request that reached no model.

local read_length = require("grpc_reader").read_length

local FRAME_BYTES = 5 -- a flag (1: compressed) and the length in four bytes
-- A message has an error's text, then infer_response with the names of the model and its version, the id, a parameter for
-- each entry, and the outputs. All these fields are length-delimited.
local INFER_RESPONSE, PARAMETER = 0x12, 0x22
local NOT_LAST = "\x0a\x15triton_final_response\x12\x02\x08\x00"

local Answers = {}
Answers.__index = Answers

function Answers.new()
  return setmetatable({ num_answers = 0, unread = "", bytes_to_skip = 0, step = Answers.read_frame }, Answers)
end

-- Takes the next bytes. Returns how many answers end in them.
function Answers:feed(bytes)
  local text, position, num_before = self.unread .. bytes, 1, self.num_answers
  local next_position = position
  while next_position do
    local count = math.min(self.bytes_to_skip, #text - next_position + 1)
    self.bytes_to_skip, position = self.bytes_to_skip - count, next_position + count
    next_position = self.bytes_to_skip == 0 and self.step(self, text, position)
  end
  self.unread = text:sub(position)
  return self.num_answers - num_before
end

-- Each step reads one element at `position`. It returns the position after the element, or nil when it needs more bytes.

function Answers:read_frame(text, position)
  if #text - position + 1 < FRAME_BYTES then return nil end
  local flag, size = string.unpack(">BI4", text, position)
  self.bytes_left, self.is_inside, self.is_last, self.step = size, false, true, Answers.read_field
  if flag ~= 0 then self:ignore() end
  return position + FRAME_BYTES
end

function Answers:read_field(text, position)
  if self.bytes_left == 0 then
    if self.is_last then self.num_answers = self.num_answers + 1 end
    self.step = Answers.read_frame
    return position
  end
  local tag = text:byte(position)
  local size, value_position, length_error = read_length(text, position + 1)
  if length_error then
    self:ignore()
    return position
  end
  if not size then return nil end
  if self.is_inside and tag == PARAMETER and size == #NOT_LAST then
    if #text - value_position + 1 < size then return nil end
    self.is_last = self.is_last and text:sub(value_position, value_position + size - 1) ~= NOT_LAST
  end
  self.bytes_left = math.max(self.bytes_left - (value_position - position), 0)
  if tag == INFER_RESPONSE and not self.is_inside then
    self.is_inside = true
  else
    self:skip(math.min(size, self.bytes_left))
  end
  return value_position
end

function Answers:skip(size)
  self.bytes_to_skip, self.bytes_left = size, self.bytes_left - size
end

-- Skips a message that can't be read. Its request counts as unanswered until the stream ends.
function Answers:ignore()
  self.is_last = false
  self:skip(self.bytes_left)
end

return Answers

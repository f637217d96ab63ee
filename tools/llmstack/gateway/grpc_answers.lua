-- Counts the messages that a server sends on a gRPC stream, as they begin. Triton sends one for each request.

local FRAME_BYTES = 5 -- a flag and the length in four bytes

local Answers = {}
Answers.__index = Answers

function Answers.new()
  return setmetatable({ num_answers = 0, frame = "", bytes_left = 0 }, Answers)
end

-- Takes the next bytes. Returns how many messages begin in them.
function Answers:feed(bytes)
  local position, num_before = 1, self.num_answers
  while position <= #bytes do
    local count = math.min(self.bytes_left, #bytes - position + 1)
    self.bytes_left, position = self.bytes_left - count, position + count
    local part = bytes:sub(position, position + FRAME_BYTES - #self.frame - 1)
    self.frame, position = self.frame .. part, position + #part
    if #self.frame == FRAME_BYTES then
      self.bytes_left, self.frame = string.unpack(">I4", self.frame, 2), ""
      self.num_answers = self.num_answers + 1
    end
  end
  return self.num_answers - num_before
end

return Answers

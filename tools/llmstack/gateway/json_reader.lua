-- Reads one JSON document in pieces, as they arrive, and asks rules about every member and every value.
--
-- The reader takes a part of JSON: no name twice in an object, numbers of at most MAX_SCALAR_BYTES, and unless the first
-- rule has `limits` of its own, those below: no escapes in names, and not too many levels and values. Triton's own reader takes the first of two members of one name, recurses
-- without a limit (until 25.05), and compares names after it has resolved escapes.
--
-- A rule is a table:
--   takes     the types that the value may have: object, array, string, number, boolean
--   is_text   the string is not looked at: any length, any escape
--   open(state)                  called at the start of an object or array; returns what the other functions get as `data`
--   member(state, data, name)    returns the rule of this member, or nil and a reason
--   item                         the rule of an array's items
--   value(state, data, literal, type)  called for each string (as written, without quotes), number and boolean; `data` is
--                                that of the object or array around it; returns nothing or a reason
--   limits    of the whole document; only in its first rule
--   close(state, data, parent)   called at the end of an object or array; returns nothing or a reason

local MAX_SCALAR_BYTES, MAX_STRING_BYTES = 64, 1024
local LIMITS = { max_depth = 10, max_values = 4096, max_name_bytes = 128, allows_escapes = false }
local QUOTE, BACKSLASH, COMMA, COLON = 0x22, 0x5c, 0x2c, 0x3a
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY = 0x7b, 0x7d, 0x5b, 0x5d
local NOT_JSON = "the body is not JSON"
-- Text up to the end of its 16th or first escape. 16 in one pattern take half the time of 16 patterns.
local TO_ESCAPE = '[^"\\]*\\.'
local TO_ESCAPES = { "^" .. TO_ESCAPE:rep(16), "^" .. TO_ESCAPE }

local ESCAPES = {
  ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t",
}

local Reader = {}
Reader.__index = Reader

-- A reader for one document. `state` belongs to the rules.
function Reader.new(rule, state)
  local reader = { state = state, unread = "", depth = 0, num_values = 0, frames = {}, rule = rule }
  reader.step, reader.limits = Reader.read_value, rule.limits or LIMITS
  return setmetatable(reader, Reader)
end

-- Parses the next bytes. Returns nothing when they are allowed, else the reason.
function Reader:feed(bytes)
  local text = #self.unread > 0 and self.unread .. bytes or bytes
  local position = 1
  while position <= #text do
    local next_position, reason = self.step(self, text, position)
    if reason then return reason end
    if not next_position or next_position == position then break end
    position = next_position
  end
  self.unread = text:sub(position)
end

function Reader:is_complete()
  return self.step == Reader.read_end and self.unread == ""
end

-- Finds the quote that ends the string of which `position` is inside, not within an escape. Returns its position; or nil
-- and the position of what has to be read again with the next bytes: of an escape that is cut, or the end of the text.
function Reader.find_quote(text, position)
  local quote = text:find('"', position, true)
  local before = quote and quote - 1 or #text
  if before < position or text:byte(before) ~= BACKSLASH then return quote, #text + 1 end
  for _, pattern in ipairs(TO_ESCAPES) do
    local _, stop = text:find(pattern, position)
    while stop do
      position = stop + 1
      _, stop = text:find(pattern, position)
    end
  end
  -- What is left has no whole escape before the quote.
  quote = text:find('"', position, true)
  local is_cut = position <= #text and text:byte(-1) == BACKSLASH
  return quote, is_cut and #text or #text + 1
end

-- Each step parses one element at `position`. It returns the position after the element; nil, or `position` again, when
-- it needs more bytes; or nil and a reason.

function Reader:read_value(text, position)
  local start = text:find("[^ \t\r\n]", position)
  if not start then return #text + 1 end
  local byte = text:byte(start)
  if byte == CLOSE_ARRAY and self.may_close then return self:close(start, CLOSE_ARRAY) end
  if byte == OPEN_OBJECT then return self:open(start, "object") end
  if byte == OPEN_ARRAY then return self:open(start, "array") end
  if byte == QUOTE then return self:read_string(text, start) end
  local stop = text:find("[ \t\r\n,%]}]", start)
  if (stop or #text + 1) - start > MAX_SCALAR_BYTES then return nil, "a number is too long" end
  if not stop then return nil end
  local literal = text:sub(start, stop - 1)
  local kind = Reader.kind(literal)
  if not kind then return nil, NOT_JSON end
  return self:take(stop, kind, literal)
end

-- The type of a scalar as it is written; nil when it is not JSON. NaN and Infinity, which Triton takes, are not.
function Reader.kind(literal)
  if literal == "true" or literal == "false" then return "boolean" end
  if literal == "null" then return "null" end
  local whole, rest = literal:match("^%-?(%d+)(.*)$")
  if not whole or (#whole > 1 and whole:byte() == 0x30) then return nil end
  if rest:find("^%.%d") then rest = rest:gsub("^%.%d+", "") end
  return (rest == "" or rest:find("^[eE][+-]?%d+$")) and "number" or nil
end

function Reader:read_string(text, start)
  local rule = self.rule
  if rule.is_text and rule.takes.string then
    self.step = Reader.skip_text
    return self:skip_text(text, start + 1)
  end
  local stop = Reader.find_quote(text, start + 1)
  if (stop or #text) - start > MAX_STRING_BYTES then return nil, "a string is too long" end
  if not stop then return nil end
  return self:take(stop + 1, "string", text:sub(start + 1, stop - 1))
end

function Reader:skip_text(text, position)
  local stop, unread = Reader.find_quote(text, position)
  if stop then return self:take(stop + 1, "string", "") end
  return unread
end

-- Gives a scalar to its rule.
function Reader:take(next_position, kind, literal)
  local reason = self:count(kind)
  if reason then return nil, reason end
  local rule, frame = self.rule, self.frames[self.depth]
  if not frame then return nil, "the body is not a JSON object" end
  reason = rule.value and rule.value(self.state, frame.data, literal, kind)
  if reason then return nil, reason end
  self.step = Reader.read_separator
  return next_position
end

function Reader:count(kind)
  self.num_values = self.num_values + 1
  local max_values = self.limits.max_values
  if self.num_values > max_values then return "the body has more than " .. max_values .. " values" end
  if not self.rule.takes[kind] then return (self.rule.name or "a member") .. " may not have the type " .. kind end
end

function Reader:open(position, kind)
  local max_depth = self.limits.max_depth
  if self.depth == max_depth then return nil, "the body is nested more than " .. max_depth .. " levels deep" end
  local reason = self:count(kind)
  if reason then return nil, reason end
  local rule, around = self.rule, self.frames[self.depth]
  self.depth = self.depth + 1
  self.frames[self.depth] = {
    rule = rule, is_object = kind == "object", names = {},
    data = rule.open and rule.open(self.state) or around and around.data,
  }
  self.may_close = true
  if kind == "object" then
    self.step = Reader.read_name
  else
    self.rule, self.step = rule.item or rule, Reader.read_value
  end
  return position + 1
end

function Reader:read_name(text, position)
  local start = text:find("[^ \t\r\n]", position)
  if not start then return #text + 1 end
  local byte = text:byte(start)
  if byte == CLOSE_OBJECT and self.may_close then return self:close(start, CLOSE_OBJECT) end
  if byte ~= QUOTE then return nil, NOT_JSON end
  local stop = Reader.find_quote(text, start + 1)
  if (stop or #text) - start > self.limits.max_name_bytes then return nil, "a member's name is too long" end
  if not stop then return nil end
  local name, frame = text:sub(start + 1, stop - 1), self.frames[self.depth]
  if name:find("\\", 1, true) then
    if not self.limits.allows_escapes then return nil, "a member's name has an escape" end
    name = Reader.unescape(name)
    if not name then return nil, NOT_JSON end
  end
  if frame.names[name] then return nil, "a member is given twice" end
  local rule, reason = frame.rule.member(self.state, frame.data, name)
  if not rule then return nil, reason end
  frame.names[name], self.rule, self.step = true, rule, Reader.read_colon
  return stop + 1
end

-- The text of a name with escapes, so that two spellings of one name are the same; nil when one is not JSON.
function Reader.unescape(name)
  local is_valid = true
  local text = name:gsub("\\(.)(%x?%x?%x?%x?)", function(kind, digits)
    if kind == "u" and #digits == 4 then return utf8.char(tonumber(digits, 16)) end
    is_valid = is_valid and ESCAPES[kind] ~= nil
    return (ESCAPES[kind] or "") .. digits
  end)
  -- Two escapes make one character beyond 16 bits.
  text = text:gsub("\xed([\xa0-\xaf])([\x80-\xbf])\xed([\xb0-\xbf])([\x80-\xbf])", function(a, b, c, d)
    local high, low = (a:byte() & 0x0f) << 6 | b:byte() & 0x3f, (c:byte() & 0x0f) << 6 | d:byte() & 0x3f
    return utf8.char(0x10000 + (high << 10 | low))
  end)
  return is_valid and text or nil
end

function Reader:read_colon(text, position)
  local start = text:find("[^ \t\r\n]", position)
  if not start then return #text + 1 end
  if text:byte(start) ~= COLON then return nil, NOT_JSON end
  self.may_close, self.step = false, Reader.read_value
  return start + 1
end

function Reader:read_separator(text, position)
  local start = text:find("[^ \t\r\n]", position)
  if not start then return #text + 1 end
  local byte, frame = text:byte(start), self.frames[self.depth]
  if byte ~= COMMA then return self:close(start, byte) end
  self.may_close = false
  if frame.is_object then
    self.step = Reader.read_name
  else
    self.rule, self.step = frame.rule.item or frame.rule, Reader.read_value
  end
  return start + 1
end

-- Ends the innermost object or array at `position`, where `byte` is.
function Reader:close(position, byte)
  local frame = self.frames[self.depth]
  if byte ~= (frame.is_object and CLOSE_OBJECT or CLOSE_ARRAY) then return nil, NOT_JSON end
  self.frames[self.depth], self.depth = nil, self.depth - 1
  local around = self.frames[self.depth]
  local reason = frame.rule.close and frame.rule.close(self.state, frame.data, around and around.data)
  if reason then return nil, reason end
  self.step = around and Reader.read_separator or Reader.read_end
  return position + 1
end

function Reader:read_end(text, position)
  if text:find("[^ \t\r\n]", position) then return nil, "the body has more than one JSON document" end
  return #text + 1
end

return Reader

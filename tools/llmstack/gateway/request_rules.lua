-- What the JSON body of /infer, /generate, /generate_stream or a call of the OpenAI API may have: rules for json_reader.lua.
--
-- Triton's own reader takes more than is safe: numbers beyond a tensor's type wrap, a shape of 2^63 - 1 stops the server,
-- `classification` divides by zero, and each unknown member becomes a request parameter. So each member must be one that
-- the ensemble needs.

local ApiKey = require("api_key")
local Ensemble = require("ensemble")

local MAX_ROWS, MAX_DIMENSION, MAX_DIMENSIONS = 1024, 65536, 4
local MAX_FP32, MAX_UINT64, MAX_TIMEOUT = 3.4028234663852886e38, "18446744073709551615", 2 ^ 53
local OBJECT, ARRAY, STRING, NUMBER, BOOLEAN =
  { object = true }, { array = true }, { string = true }, { number = true }, { boolean = true }
local KINDS = { BYTES = "string", INT32 = "number", UINT64 = "number", FP32 = "number", BOOL = "boolean" }
local IGNORED = { takes = STRING, is_text = true }

local Rules = { MISSING_KEY = "an API key is required: send it as the member X-Api-Key" }

-- A client's text in a reason: only if it can't be mistaken for anything else.
local function quoted(name)
  local is_clear = name:find("^[%w_-]+$") and #name <= 64 and not ApiKey.is_in(name)
  return is_clear and name or "of that name"
end

local function unknown(what, name)
  return what .. " " .. quoted(name) .. " is not allowed"
end

-- Whether a number fits into a data type.
local function fits(literal, data_type)
  if data_type == "FP32" then return math.abs(tonumber(literal)) <= MAX_FP32 end
  if not literal:find("^%-?%d+$") then return false end
  if data_type == "INT32" then
    local number = math.tointeger(tonumber(literal))
    return number ~= nil and number >= -2147483648 and number <= 2147483647
  end
  return literal:byte() ~= 0x2d and (#literal < #MAX_UINT64 or #literal == #MAX_UINT64 and literal <= MAX_UINT64)
end

-- The reason why a value can't be in a tensor of this type; nothing when it can.
local function value_fault(name, data_type, literal, kind)
  if kind ~= KINDS[data_type] then return name .. " must have the type " .. data_type end
  if kind == "number" and not fits(literal, data_type) then
    return "a value of " .. name .. " is out of the range of " .. data_type
  end
end

-- Whether a string has a null character: Triton cuts headers and ids there.
local function has_null(literal)
  return literal:find("\0", 1, true) ~= nil or literal:gsub("\\\\", ""):find("\\u0000", 1, true) ~= nil
end

local function object(name, members, open, close)
  return {
    takes = OBJECT, name = name, open = open, close = close,
    member = function(_, _, member_name)
      local rule = members[member_name]
      if rule then return rule end
      return nil, unknown("member", member_name)
    end,
  }
end

local function integer(name, low, high, keep)
  return {
    takes = NUMBER, name = name,
    value = function(state, data, literal)
      local number = literal:find("^%d+$") and math.tointeger(tonumber(literal))
      if not number or number < low or number > high then return name .. " is out of range" end
      if keep then return keep(state, data, number) end
    end,
  }
end

local TIMEOUT = integer("timeout", 0, MAX_TIMEOUT)
local FLAG = { takes = BOOLEAN }
local ID = {
  takes = STRING, name = "id",
  value = function(_, _, literal)
    if has_null(literal) then return "id has a null character" end
    if ApiKey.is_in(literal) then return "id holds an API key" end
  end,
}

-- /infer

local function keep_name(key)
  return {
    takes = STRING, name = key,
    value = function(_, data, literal) data[key] = literal end,
  }
end

local SHAPE = {
  takes = ARRAY, name = "shape",
  item = integer("a dimension of a shape", 0, MAX_DIMENSION, function(_, input, number)
    input.num_dimensions = input.num_dimensions + 1
    if input.num_dimensions > MAX_DIMENSIONS then return "a shape has too many dimensions" end
    if input.num_dimensions == 1 and (number == 0 or number > MAX_ROWS) then return "the number of rows is out of range" end
  end),
}

-- Rows in any nesting. A value is compared with its input's type when both are known: at the end of the input.
local DATA = {
  takes = { array = true, string = true, number = true, boolean = true }, name = "data",
  value = function(_, input, literal, kind)
    input.kinds[kind] = true
    if kind ~= "number" then return end
    for data_type in pairs(input.fits) do
      if not fits(literal, data_type) then input.fits[data_type] = nil end
    end
  end,
}
DATA.item = DATA
-- Long strings may be values: the reader does not look at them.
DATA.is_text = true

local INPUT = object("an input", {
  name = keep_name("name"),
  datatype = keep_name("datatype"),
  shape = SHAPE,
  data = { takes = ARRAY, name = "data", item = DATA },
  parameters = object("an input's parameters", {
    binary_data_size = integer("binary_data_size", 0, 2 ^ 31, function(state, _, number)
      state.binary_bytes = state.binary_bytes + number
    end),
  }),
}, function()
  return { kinds = {}, fits = { INT32 = true, UINT64 = true, FP32 = true }, num_dimensions = 0 }
end, function(state, input)
  local name = input.name or ""
  local data_type = Ensemble.INPUTS[name]
  if not data_type then return unknown("input", name) end
  if state.inputs[name] then return "input " .. name .. " is given twice" end
  state.inputs[name] = true
  if input.datatype ~= data_type then return name .. " must have the type " .. data_type end
  for kind in pairs(input.kinds) do
    if kind ~= KINDS[data_type] then return name .. " must have the type " .. data_type end
  end
  if input.kinds.number and not input.fits[data_type] then
    return "a value of " .. name .. " is out of the range of " .. data_type
  end
end)

local OUTPUT = object("an output", {
  name = keep_name("name"),
  parameters = object("an output's parameters", { binary_data = FLAG }),
}, function() return {} end, function(state, output) return Rules.take_output(state, output.name or "") end)

-- Counts a requested output in `state`. Returns nothing or a reason. The gRPC reader uses it too.
function Rules.take_output(state, name)
  local is_known = Ensemble.SETTLED_OUTPUTS[name] or Ensemble.ENGINE_OUTPUTS[name] or Ensemble.STREAM_OUTPUTS[name]
  if not is_known then return unknown("output", name) end
  if state.outputs[name] then return "output " .. name .. " is asked for twice" end
  state.outputs[name], state.num_outputs = true, state.num_outputs + 1
  state.is_settled = state.is_settled or Ensemble.SETTLED_OUTPUTS[name]
end

-- The reason why the outputs of a whole request to this model are not allowed; nothing when they are.
function Rules.output_fault(state, model)
  for name in pairs(Ensemble.STREAM_OUTPUTS) do
    if state.outputs[name] and model ~= Ensemble.STREAM_MODEL then return unknown("output", name) end
  end
  if state.num_outputs > 0 and not state.is_settled then
    return "the outputs that are asked for leave out every one of the policy's: add text_output"
  end
end

local INFER_PARAMETERS = object("parameters", { timeout = TIMEOUT, binary_data_output = FLAG })
local infer_parameter = INFER_PARAMETERS.member
INFER_PARAMETERS.member = function(state, data, name)
  if Ensemble.HEADERS[name:lower()] then return nil, "send " .. name:lower() .. " as a header" end
  return infer_parameter(state, data, name)
end

local INFER = object("the body", {
  id = ID,
  parameters = INFER_PARAMETERS,
  inputs = { takes = ARRAY, name = "inputs", item = INPUT },
  outputs = { takes = ARRAY, name = "outputs", item = OUTPUT },
}, nil, function(state)
  if next(state.inputs) == nil then return "the body has no inputs" end
  if state.binary_bytes ~= state.bytes_after then return "the sum of binary_data_size is not the number of bytes" end
  return Rules.output_fault(state, Ensemble.MODEL)
end)

-- /generate and /generate_stream: inputs, and the headers that Triton does not forward there

local function tensor(name, data_type)
  local rule = {
    takes = { array = true, [KINDS[data_type]] = true }, name = name, is_text = data_type == "BYTES",
    value = function(_, _, literal, kind) return value_fault(name, data_type, literal, kind) end,
  }
  rule.item = rule
  return rule
end

local function header(name)
  return {
    takes = STRING, name = name,
    value = function(state, _, literal)
      if has_null(literal) then return name .. " has a null character" end
      state.has_key = state.has_key or ApiKey.is_given(name, literal)
    end,
  }
end

local MEMBERS, HEADERS = { id = ID, timeout = TIMEOUT }, {}
for name, data_type in pairs(Ensemble.INPUTS) do MEMBERS[name] = tensor(name, data_type) end
for name in pairs(Ensemble.HEADERS) do HEADERS[name] = header(name) end

local GENERATE = {
  takes = OBJECT, name = "the body",
  member = function(state, _, name)
    if MEMBERS[name] then return MEMBERS[name] end
    local lower = name:lower()
    if not HEADERS[lower] then return nil, unknown("member", name) end
    if state.headers[lower] then return nil, lower .. " is given twice" end
    state.headers[lower] = true
    return HEADERS[lower]
  end,
  close = function(state)
    if state.requires_keys and not state.has_key then return Rules.MISSING_KEY end
  end,
}

-- The OpenAI API: its front end decides about members. A schema may be nested 96 levels deep (`guides.max_depth` of the
-- manifest), inside three more, and have names of its own.

local ANY = {
  takes = { object = true, array = true, string = true, number = true, boolean = true, null = true }, is_text = true,
}
ANY.member, ANY.item = function() return ANY end, ANY
local OPENAI = {
  takes = OBJECT, name = "the body", member = ANY.member,
  limits = { max_depth = 100, max_values = 16384, max_name_bytes = 8192, allows_escapes = true },
}
local RULES = { infer = INFER, generate = GENERATE, generate_stream = GENERATE, openai = OPENAI }

-- The rule and the state for a body. `bytes_after` is the number of bytes after the JSON document. `requires_keys`: a
-- body of generate or generate_stream needs something of an API key's form.
function Rules.of(call, bytes_after, requires_keys)
  local state = Rules.new_state()
  state.bytes_after, state.requires_keys = bytes_after, requires_keys
  return RULES[call], state
end

function Rules.new_state()
  return { inputs = {}, outputs = {}, headers = {}, num_outputs = 0, binary_bytes = 0 }
end

return Rules

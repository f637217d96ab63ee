-- The HAProxy filter: checks the body of every request while HAProxy forwards it. grpc_reader.lua reads gRPC calls,
-- json_reader.lua with request_rules.lua the bodies of HTTP requests. Headers that the ensemble does not need are deleted.
--
-- A request is rejected before its last byte is forwarded: Triton handles complete bodies and messages only.
--
-- An invalid request is read to its end, without forwarding any more of it, before it is rejected: a client that is still
-- sending would lose the answer. A stream, or a call that is far too long, is rejected immediately by raising an error.
-- The documented way, returning -1 from a payload callback, does not work: HAProxy 2.6 takes it as a very large number of
-- bytes to forward. HAProxy also forwards the data of a filter that it could not create or that timed out. So the
-- configuration rejects requests that no guard has marked, and sets no time limit for Lua.

local Ensemble = require("ensemble")
local GrpcAnswers = require("grpc_answers")
local GrpcReader = require("grpc_reader")
local InFlight = require("in_flight")
local JsonReader = require("json_reader")
local Rules = require("request_rules")

local INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 3, 4, 8, 12
local SERVICE, MODEL_PATH = "/inference.GRPCInferenceService/", "^/v2/models/([^/]+)/([^/]+)$"
local JSON_LENGTH = "inference-header-content-length"
local ALL_BYTES = 0x7fffffff -- forward what is there; HAProxy would take nil as none

local Guard = { flags = filter and filter.FLT_CFG_FL_HTX }
Guard.__index = Guard

-- Arguments: grpc or http, the largest message in bytes, the time limit for one message (or body) in seconds, the most
-- requests of one client in flight, and `keys` if a body of generate needs an API key. HAProxy itself looks at headers.
local function configure(guard, arguments)
  guard.is_grpc, guard.max_bytes = arguments[1] == "grpc", math.tointeger(tonumber(arguments[2]))
  guard.max_seconds, guard.max_in_flight = tonumber(arguments[3]), tonumber(arguments[4])
  guard.requires_keys = arguments[5] == "keys"
  assert(
    guard.max_bytes and guard.max_seconds and guard.max_in_flight,
    "arguments of guard: grpc|http max_bytes max_seconds max_in_flight [keys]"
  )
  return guard
end

local function set_error(txn, status, reason)
  txn:set_var("txn.grpc_status", status)
  txn:set_var("txn.reason", reason)
  if reason == Rules.MISSING_KEY then
    txn:set_var("txn.is_key_missing", true)
    txn:set_var("txn.code", "missing_api_key")
  end
end

local function reject(txn, status, reason)
  set_error(txn, status, reason)
  error(reason, 0)
end

function Guard:new()
  local guard = { is_grpc = self.is_grpc, max_bytes = self.max_bytes, max_seconds = self.max_seconds }
  guard.max_in_flight, guard.requires_keys = self.max_in_flight, self.requires_keys
  return setmetatable(guard, Guard)
end

function Guard:start_analyze(txn, channel)
  if channel:is_resp() then return filter.CONTINUE end
  filter.register_data_filter(self, channel)
  txn:set_var("txn.is_guarded", true)
  return filter.CONTINUE
end

-- Rejects the request at its end.
function Guard:mark_rejected(txn, status, reason)
  set_error(txn, status, reason)
  self.is_rejected = true
end

function Guard:http_headers(txn, message)
  if message.channel:is_resp() then
    if self.answers then filter.register_data_filter(self, message.channel) end
    return filter.CONTINUE
  end
  self.start_s, self.num_bytes = core.now().sec, 0
  local headers, path = txn.http:req_get_headers(), txn.f:path()
  if self.is_grpc then
    if path:sub(1, #SERVICE) == SERVICE then self.reader = GrpcReader.new(path:sub(#SERVICE + 1), self.max_bytes) end
    if not self.reader then reject(txn, UNIMPLEMENTED, "this method is not allowed") end
    if self.reader.call.is_stream then self.answers, self.num_messages, self.num_answered = GrpcAnswers.new(), 0, 0 end
  elseif txn.f:method() == "POST" then
    local model, call = path:match(MODEL_PATH)
    if (Ensemble.HTTP_CALLS[model] or {})[call] then self:expect_json(txn, call, headers) end
    if Ensemble.OPENAI_PATHS[path] then self:expect_json(txn, "openai", headers) end
  end
  self:delete_headers(txn, headers)
  return filter.CONTINUE
end

-- Prepares to read the body of a call: infer, generate, generate_stream or openai.
function Guard:expect_json(txn, call, headers)
  local body_bytes = math.tointeger(tonumber(headers["content-length"][0]))
  local json_bytes, given = body_bytes, call == "infer" and headers[JSON_LENGTH]
  if given then
    json_bytes = not given[1] and given[0]:find("^[1-9]%d?%d?%d?%d?%d?%d?%d?%d?$") and math.tointeger(tonumber(given[0]))
    if not json_bytes or json_bytes > body_bytes then
      self:mark_rejected(txn, INVALID_ARGUMENT, JSON_LENGTH .. " is not the length of a part of the body")
      return
    end
  end
  self.json_bytes, self.is_triton = json_bytes, call ~= "openai"
  self.reader = JsonReader.new(Rules.of(call, body_bytes - json_bytes, self.requires_keys))
end

function Guard:delete_headers(txn, headers)
  local allowed = self.is_grpc and Ensemble.GRPC_HEADERS or Ensemble.HTTP_HEADERS
  for name in pairs(headers) do
    local is_needed = allowed[name] or Ensemble.HEADERS[name] or name == JSON_LENGTH and self.is_triton
    if not is_needed then txn.http:req_del_header(name) end
  end
end

function Guard:http_payload(txn, message)
  if message.channel:is_resp() then
    self:count_answers(txn, self.answers:feed(message:body() or ""))
    return ALL_BYTES
  end
  if self.is_grpc then
    self:read_grpc(txn, message)
  elseif self.reader or self.is_rejected then
    self:read_json(txn, message)
  end
  if core.now().sec - self.start_s > self.max_seconds then
    reject(txn, DEADLINE_EXCEEDED, "the body was sent too slowly")
  end
  return ALL_BYTES
end

-- Parses the buffered bytes of a gRPC call. Removes them when the call will be rejected.
function Guard:read_grpc(txn, message)
  local bytes = message:body() or ""
  if not self.is_rejected then
    if not self.reader:is_inside_message() then self.start_s = core.now().sec end
    local status, reason = self.reader:feed(bytes)
    if not status and self.answers then status, reason = self:count_messages(txn) end
    if not status then return end
    if self.reader.call.is_stream then reject(txn, status, reason) end
    self:mark_rejected(txn, status, reason)
  end
  self.num_bytes = self.num_bytes + #bytes
  if self.num_bytes > 4 * self.max_bytes then reject(txn, RESOURCE_EXHAUSTED, "the call is too long") end
  message:remove()
end

-- Counts the new messages of a stream. Returns nothing, or a status and a reason when they are too many.
function Guard:count_messages(txn)
  local num_new = self.reader.num_messages - self.num_messages
  if num_new > 0 and InFlight.num_requests(txn) + num_new > self.max_in_flight then
    return RESOURCE_EXHAUSTED, "too many requests in flight"
  end
  InFlight.count_messages(txn, num_new)
  self.num_messages = self.reader.num_messages
end

-- Counts requests of a stream whose answers are complete, or that the server no longer has.
function Guard:count_answers(txn, count)
  local num_new = math.min(count, self.num_messages - self.num_answered)
  InFlight.count_answers(txn, num_new)
  self.num_answered = self.num_answered + num_new
end

-- Parses the buffered bytes of a body. Removes them when the request will be rejected.
function Guard:read_json(txn, message)
  local bytes = message:body() or ""
  if not self.is_rejected then
    local num_left = self.json_bytes - self.num_bytes
    local json = #bytes > num_left and bytes:sub(1, math.max(num_left, 0)) or bytes
    self.num_bytes = self.num_bytes + #bytes
    local reason = self.reader:feed(json)
    if not reason and self.num_bytes >= self.json_bytes and not self.reader:is_complete() then
      reason = "the body is not JSON"
    end
    if not reason then return end
    self:mark_rejected(txn, INVALID_ARGUMENT, reason)
  end
  message:remove()
end

function Guard:http_end(txn, message)
  if message.channel:is_resp() then return filter.CONTINUE end
  if self.is_rejected then return filter.ERROR end
  if not self.reader then return filter.CONTINUE end
  local status, reason
  if self.is_grpc then
    status, reason = self.reader:finish()
  elseif not self.reader:is_complete() then
    status, reason = INVALID_ARGUMENT, "the body is not JSON"
  end
  if not status then
    self.is_forwarded = true
    return filter.CONTINUE
  end
  set_error(txn, status, reason)
  return filter.ERROR
end

-- The end of a request, also when the client or the server is gone. HAProxy calls it for both channels.
function Guard:end_analyze(txn, channel)
  if not channel:is_resp() then return filter.CONTINUE end
  -- A server that is gone can't send any more; then nothing is left of the request.
  local is_client_gone = channel:may_recv() or txn:get_var("txn.is_abandoned")
  if self.answers then
    local num_left = self.num_messages - self.num_answered
    self:count_answers(txn, num_left)
    -- The streaming model ends its work for a client that is gone; the ensemble's engine may go on.
    local num_going_on = math.min(num_left, self.num_messages - self.reader.num_streaming)
    if is_client_gone then InFlight.count_abandoned(txn, num_going_on) end
  elseif self.is_forwarded and is_client_gone and not txn:get_var("txn.is_answered") then
    InFlight.count_abandoned(txn, 1)
  end
  return filter.CONTINUE
end

core.register_filter("guard", Guard, configure)

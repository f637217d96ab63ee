-- API keys by their form: `lsk_` and 43 characters. Only a server knows whether one is valid.

local PREFIX, NUM_CHARACTERS = "lsk_", 43
local CHARACTER = "[%w_-]"
local KEY = "^" .. PREFIX .. CHARACTER:rep(NUM_CHARACTERS) .. "$"
local BEARER = "^[Bb][Ee][Aa][Rr][Ee][Rr] +(.*)$"
local PART = PREFIX .. CHARACTER:rep(16) -- also of a key that was cut off

local ApiKey = {}

-- Whether the text of this header, `authorization` or `x-api-key`, has the form of a key.
function ApiKey.is_given(header, text)
  if header == "authorization" then
    text = text:match(BEARER) or ""
  elseif header ~= "x-api-key" then
    return false
  end
  return text:find(KEY) ~= nil
end

-- Whether a text contains a key, or most of one.
function ApiKey.is_in(text)
  return text:find(PART) ~= nil
end

return ApiKey

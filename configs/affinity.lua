-- The key by which HAProxy keeps a conversation on one server, from the beginning of a request's body.
-- internvl_server/routing/affinity.py computes the same one and says what it is made of.

local WINDOW_BYTES = 65536
local MAX_VALUE_BYTES = 4096
local BACKSLASH = 92

local function set(names)
    local found = {}
    for _, name in ipairs(names) do found[name] = true end
    return found
end

local BEGIN = set { "messages", "input", "system", "instructions", "prompt" }
local MEDIA = set { "url", "image_url", "video_url", "data" }
local TEXT = set { "content", "text", "input", "prompt" }

-- Where the first member with one of the names begins, and where its value does. A quote after a
-- backslash is part of a text.
local function find_member(window, names, position)
    while true do
        local first, last, name = window:find('"([%a_]+)"%s*:', position)
        if not first then return nil end
        if names[name] and window:byte(first - 1) ~= BACKSLASH then return first, last + 1 end
        position = first + 1
    end
end

-- The first value that fits, of a member with one of the names.
local function find_value(window, names, position, pattern, min_bytes)
    while true do
        local first, value = find_member(window, names, position)
        if not first then return nil end
        local found = window:match(pattern, value)
        if found and #found >= min_bytes then return found:sub(1, MAX_VALUE_BYTES) end
        position = first + 1
    end
end

-- Where a text first is that is not part of another one.
local function find_word(window, word, start)
    while true do
        local first, last = window:find(word, start, true)
        if not first then return nil end
        if window:byte(first - 1) ~= BACKSLASH then return first, last end
        start = first + 1
    end
end

local function parts(body)
    local window = body:sub(1, WINDOW_BYTES)
    local begin, value = find_member(window, BEGIN, 1)
    if not begin then return nil end
    local first = begin
    local user, last = find_word(window, '"user"', value)
    if user then
        local _, brace = window:sub(value, user - 1):find("^.*{")
        first = brace and value + brace - 1 or user
        local answer = find_word(window, '"assistant"', last + 1)
        if answer then window = window:sub(1, answer - 1) end
    end
    local found = find_value(window, MEDIA, value, '^%s*"([^"]+)', 16)
        or find_value(window, TEXT, first, '^%s*"([^"\\]+)', 1)
        or ""
    return window:sub(begin, first - 1) .. "\0" .. found
end

core.register_fetches("affinity_key", function(txn)
    local found = parts(txn.f:req_body() or "")
    if not found then return "" end
    return txn.c:hex(txn.c:sha2(found, 256)):sub(1, 32):lower()
end)

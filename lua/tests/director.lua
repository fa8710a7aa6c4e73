-- What the Director answered, byte for byte, in every state it was asked in.

local t = require "helpers"
local mailaffinity = require "mailaffinity"

local STRATEGY = { ring = "ring", direct = "modulo", none = "ring" }

local function unescaped(field)
  return (field:gsub("%%(%x%x)", function(byte) return string.char(tonumber(byte, 16)) end))
end

--- The site of a capture, with this format of the hash.
local function site_of(header, hosts, format)
  local quoted = format:gsub('[\\"]', "\\%0"):gsub("%c", function(c) return ("\\u%04x"):format(c:byte()) end)
  -- A hash needs no node, and a configuration does.
  if header.value == "hash" then hosts = { "10.0.0.1 100 - up" } end
  local state = "# written\n"
  local config = ('node_state = "%s"\nauth_username_format = "%%u"\nstrategy = "%s"\nusername_hash = "%s"\n')
    :format(t.path("nodes.toml"), STRATEGY[header.strategy], quoted)
  for i, host in ipairs(hosts) do
    local address, vhosts, tag, up = host:match("^(%S+) (%d+) (%S+) (%S+)$")
    config = config .. ('[[node]]\nname = "n%d"\naddress = "%s"\nvhost_count = %s\ntag = "%s"\n')
      :format(i, address, vhosts, tag == "-" and "" or tag)
    if up == "down" then state = state .. ('[node.n%d]\nstate = "down"\n'):format(i) end
  end
  t.replace("nodes.toml", state)
  return assert(mailaffinity.open(t.replace("mailaffinity.toml", config)))
end

local checked, refused = 0, 0
for file in t.run("ls tests/director/*.tsv"):gmatch("%S+") do
  local header, hosts, sites, wrong = {}, {}, {}, {}
  -- No configuration has an address twice.
  local skipped = file:find("ring-duplicate", 1, true)
  for line in io.lines(file) do
    local key, value = line:match("^# (%S+) = ?(.*)$")
    if key == "host" then
      hosts[#hosts + 1] = value
    elseif key then
      header[key] = value
    elseif header.key == "user" and not skipped then
      local format = header.username_hash
      if header.columns then format, line = line:match("^([^\t]*)\t(.*)$") end
      local user, tag, answer = line:match("^([^\t]*)\t([^\t]*)\t([^\t]*)$")
      sites[format] = sites[format] or site_of(header, hosts, format)
      local site, got = sites[format]
      if header.value == "hash" then
        got = site.username_hash(unescaped(user))
      else
        local node, message = site.node(unescaped(user), unescaped(tag))
        -- The Director refuses such a format at each lookup, and the configuration once.
        local is_refused = not node and message:find(":4: ", 1, true)
        got = is_refused and "!TRYAGAIN" or node and node.address or "-"
        refused = refused + (is_refused and 1 or 0)
      end
      if tostring(got) ~= answer then wrong[#wrong + 1] = line .. ", not " .. tostring(got) end
      checked = checked + 1
    end
  end
  t.is(table.concat(wrong, "\n"), "", file)
end
t.ok(checked > 10000, checked .. " lookups")
t.ok(refused > 0, refused .. " refused")
t.done()

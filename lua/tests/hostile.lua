-- Whatever the arguments are, no function raises an error.

local t = require "helpers"
local mailaffinity = require "mailaffinity"

local LONGEST = 1023

local config = t.configure()
t.mark_down()
local site = mailaffinity.open(config)

local fail = function() error("from the program") end
local metatable = { __tostring = fail, __index = fail, __len = fail, __concat = fail, __name = "username" }
local values = { {}, setmetatable({}, metatable), fail, true, false, coroutine.create(fail), io.stdout, print }

-- What is no string is told; numbers are strings, as everywhere in Lua.
for _, value in ipairs(values) do
  for _, name in ipairs { "node", "username_hash" } do
    local good, node, message = pcall(site[name], value)
    t.is({ good, node }, { true, nil }, ("%s of a %s"):format(name, type(value)))
    t.is(message, "user is no string, but " .. type(value), "is told")
  end
  local function refused(argument) return table.pack(true, nil, argument .. " is no string, but " .. type(value)) end
  t.is(table.pack(pcall(site.node, "user1", value)), refused("tag"), "a tag")
  t.is(table.pack(pcall(mailaffinity.open, value)), refused("path"), "a path")
end
t.is(table.pack(site.node()), table.pack(nil, "user is no string, but nil"), "no argument")
t.is(table.pack(site.node(nil, "far")), table.pack(nil, "user is no string, but nil"), "no user")
t.ok(site.node("user1", nil, table.unpack(values)), "more arguments than there are")
t.ok(site.node(table.unpack({ "user1" }, 1, 200)), "many more")
t.ok(site.nodes(table.unpack(values)), "also where there are none")
for _, number in ipairs { 0, -1, 42, 1.5, 1e100, 0 / 0, 1 / 0, math.mininteger } do
  t.is(site.username_hash(number), site.username_hash(tostring(number)), "the number " .. number)
end

for _, path in ipairs { "", "here.toml", "./x", "\0", "\xff", "x\n" } do
  local opened, message = mailaffinity.open(path)
  t.is(opened, nil, "no path")
  t.like(message, " is not an absolute path$", "is told")
end
local paths = { "/", "/dev/null", "/dev/zero", "/a\0b", "/\xff", "/x\ny", "/" .. ("a"):rep(5000), "/proc/self/mem" }
for _, path in ipairs(paths) do
  local opened = mailaffinity.open(path)
  local node, message = opened.node("user1")
  t.is(node, nil, "no configuration")
  t.like(message, "^%C+; there is no good configuration to use$", "one line tells it")
end

-- Names.
t.ok(site.node(("a"):rep(LONGEST)), "the longest name")
local too_long = table.pack(nil, "a user's name is longer than 1023 bytes")
for _, length in ipairs { LONGEST + 1, 5000, 5000000 } do
  for _, name in ipairs { "node", "username_hash" } do
    t.is(table.pack(site[name](("a"):rep(length))), too_long, length .. " bytes")
  end
end
t.is(site.node("a\0b").name, t.by_command(config, { "a\0b" })[1], "a NUL is a byte")

-- Any bytes, of any length: as the command says. The seed is told, should it fail.
local seed = os.time()
math.randomseed(seed)
local users = {}
local alphabets = { "@+*%.aB", "\0\1\x7f\xff\xc3\xa4 \t\r", nil }
for i = 1, 20000 do
  local alphabet = alphabets[i % 3 + 1]
  local length = math.random(0, i % 50 == 0 and LONGEST + 20 or 40)
  local bytes = {}
  for place = 1, length do
    local byte
    repeat
      local at = alphabet and math.random(#alphabet)
      byte = alphabet and alphabet:sub(at, at) or string.char(math.random(0, 255))
    until byte ~= "\n"
    bytes[place] = byte
  end
  users[i] = table.concat(bytes)
end
-- The command takes an empty line, and what a line may end with, for none.
local named = {}
for _, user in ipairs(users) do
  if user ~= "" and not user:find("\r$") then named[#named + 1] = user end
end
for _, format in ipairs {
  "",
  'auth_username_format = "%Ln"\nauth_master_user_separator = "*"\nusername_hash = "%Ln"',
  'auth_username_format = "%u"\nusername_hash = "%2.256Hu"',
} do
  t.configure(format)
  t.is(t.differences(site, config, named), {}, ("%d names of seed %d: %s"):format(#named, seed, format))
end

-- Functions may run inside each other, by what Lua collects, and end where coroutines end.
t.configure()
local inner = 0
local function litter()
  setmetatable({}, { __gc = function()
    local node = site.node("user1")
    inner = inner + (node and 1 or 0)
    local opened = mailaffinity.open(config)
    inner = inner + #opened.nodes()
  end })
end
collectgarbage("generational")
local outer = 0
for i = 1, 20000 do
  litter()
  outer = outer + (site.node("user" .. i) and 1 or 0) + #site.nodes()
end
t.is(outer, 80000, "each answers")
collectgarbage()
t.is(inner, 80000, "and so does each within it")
local wrapped = coroutine.wrap(function()
  while true do coroutine.yield(site.node("user1").name) end
end)
t.is({ wrapped(), wrapped() }, { site.node("user1").name, site.node("user1").name }, "a coroutine")

-- What is given away cannot be broken from outside.
site.nodes()[1].name = "other"
site.node("user1").name = "other"
t.is(site.nodes()[1].name, "node1", "tables are the caller's own")
local kept = mailaffinity.open(config).node
collectgarbage()
t.ok(kept("user1"), "a function may outlive its table")
t.done()

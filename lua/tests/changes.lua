-- Changes on disk count at the next call; what breaks does not.

local t = require "helpers"
local mailaffinity = require "mailaffinity"

local config = t.configure()
t.mark_down()
local site = mailaffinity.open(config)
local function answer(asked)
  local node, message = (asked or site).node("user1")
  return { node and node.host, message and message:gsub("%d+%-%d+%-%d+T[%d:]+Z", "TIME"):gsub("^" .. t.path(""), "") }
end
local home = answer()[1]

t.mark_down("node3")
local away = answer()[1]
t.ok(home == "node3.example.org" and away ~= home, "a node goes down")
t.mark_down()
t.is(answer(), { home }, "and comes back")
t.run(("sed -i s/node3.example/moved.example/ %s"):format(config))
t.is(answer(), { "moved.example.org" }, "the configuration is another")
t.configure()

-- Who moves between nodes that live is not let in meanwhile.
local moment = os.time() + 60
local was_down = '[before]\nuntil = "%s"\n[before.node.node3]\nstate = "down"\n'
t.replace("nodes.toml", was_down:format(os.date("!%Y-%m-%dT%TZ", moment)))
local moving = site.node("user1")
t.is({ moving.host, moving.moves_to.host, moving.moves_at }, { away, home, moment }, "node3 comes back")
t.is(moving.moves_to.moves_to, nil, "once")
t.is(site.home("user1").moves_to, nil, "nobody goes away from home")
t.replace("nodes.toml", was_down:format(os.date("!%Y-%m-%dT%TZ", os.time())))
t.is({ site.node("user1").host, site.node("user1").moves_at }, { home }, "it is there")
t.mark_down()

-- Each problem is told when it is new: not at each login.
t.mark_down("node3", "nod1")
local unknown = 'nodes.toml: node "nod1" is down but not in the configuration; correct its name or remove it'
t.is(answer(), { away, unknown }, "an answer and a message")
t.is(answer(), { away }, "once")
t.is(select(2, site.nodes()), nil, "by whatever function")
t.replace("nodes.toml", "[node")
local told = answer()
t.is(told[1], away, "a broken node state")
t.like(told[2], "^nodes.toml: not a node state: line 1: .*; the last good node state stays in force;", "is told")
t.is(answer(), { away }, "once")
t.replace("mailaffinity.toml", "nonsense\n")
told = answer()
t.is(told[1], away, "the configuration too")
t.like(told[2], "^mailaffinity.toml:1: .*; the last good configuration stays in force; .*/nodes.toml: ", "both")
t.is(answer(), { away }, "once")
os.remove(config)
t.is(answer()[1], away, "gone")
t.configure()
t.mark_down()
t.is(answer(), { home }, "all is well again")
t.mark_down("nod1")
t.is({ answer()[2], answer()[2] }, { unknown }, "what comes again is told again")

-- What broke before the first question.
t.mark_down("node3")
site = mailaffinity.open(config)
t.replace("nodes.toml", "[node")
t.replace("mailaffinity.toml", "nonsense\n")
t.is(answer()[1], away, "it was read when it was opened")

-- Who comes new has the copies that the commands keep, or nothing, and hears it each time.
local new = mailaffinity.open(config)
local nothing = "^.*/mailaffinity.toml:1: .*; there is no good configuration to use$"
for _ = 1, 2 do
  t.like(select(2, new.node("user1")), nothing, "nothing good")
end
t.is(new.nodes(), nil, "no nodes")
t.is(new.username_hash("user1"), nil, "no hash")
t.configure()
t.mark_down("node3")
for _, name in ipairs { "mailaffinity.toml", "nodes.toml" } do
  t.run(("install -m 644 %s %s.last-good"):format(t.path(name), t.path(name)))
end
t.replace("nodes.toml", "[node")
t.replace("mailaffinity.toml", "nonsense\n")
told = answer(mailaffinity.open(config))
t.is(told[1], away, "by the copies")
t.like(told[2], "^mailaffinity.toml:1: .*; the last good copy .*.last%-good of TIME is in force; ", "and told")

-- The same again after a minute, and a bug in the module, by a clock of the test's own.
local setenv = require "setenv"
setenv("TEST_CLOCK", "1000")
site = mailaffinity.open(config)
t.ok(answer()[2], "told")
setenv("TEST_CLOCK", "1059")
t.is(answer(), { away }, "not again within a minute")
setenv("TEST_CLOCK", "1060")
t.ok(answer()[2], "but then")
t.is(answer(), { away }, "once")
os.remove(t.path("mailaffinity.toml.last-good"))
t.configure()
t.mark_down()
site = mailaffinity.open(config)
t.configure()
setenv("TEST_CLOCK_FAILS", "1")
local bug = "^internal error at [%w/._-]+:%d+; please report it$"
for _, name in ipairs { "node", "nodes", "username_hash" } do
  local value, message = site[name]("user1")
  t.is(value, nil, name .. "() has a bug")
  t.like(message, bug, "which it says")
end
local opened = mailaffinity.open(config)
t.like(select(2, opened.node("user1")), bug, "from the beginning")
setenv("TEST_CLOCK_FAILS", nil)
t.is({ answer()[1], answer(opened)[1] }, { home, home }, "and goes on")
t.done()

-- What the tests share. They print TAP, for prove.

local helpers = {}

local tests = 0

local function report(passed, what)
  tests = tests + 1
  print((passed and "ok " or "not ok ") .. tests .. " - " .. what:gsub("[^%g ]", "?"))
  return passed
end

local function show(value)
  if type(value) ~= "table" then return type(value) == "string" and ("%q"):format(value) or tostring(value) end
  local fields = {}
  for key, field in pairs(value) do fields[#fields + 1] = tostring(key) .. " = " .. show(field) end
  table.sort(fields)
  return "{ " .. table.concat(fields, ", ") .. " }"
end

function helpers.ok(passed, what)
  return report(passed and true or false, what)
end

--- Both are the same, tables by what is in them.
function helpers.is(got, expected, what)
  got, expected = show(got), show(expected)
  if not report(got == expected, what) then
    local line = debug.getinfo(2, "l").currentline
    io.stderr:write(("# %s, line %d\n"):format(what, line))
    io.stderr:write(("# got %s\n# expected %s\n"):format(got:sub(1, 2000), expected:sub(1, 2000)))
  end
end

function helpers.like(got, pattern, what)
  if not report(type(got) == "string" and got:find(pattern) ~= nil, what) then
    io.stderr:write(("# %s: got %s\n# expected %s\n"):format(what, show(got), pattern))
  end
end

--- To be called at the end: without it, prove knows that the test ended too soon.
function helpers.done()
  print("1.." .. tests)
end

--- Runs a command, which must succeed, and returns what it prints.
function helpers.run(command)
  local pipe = assert(io.popen(command))
  local output = pipe:read("a")
  assert(pipe:close(), command)
  return output
end

local folder = helpers.run("mktemp -d"):sub(1, -2)

--- The path of a file in the test's folder, which run-tests.sh removes.
function helpers.path(name)
  return folder .. "/" .. name
end

--- Writes a file in the test's folder by way of rename: readers see it whole.
function helpers.replace(name, text)
  local path = helpers.path(name)
  local file = assert(io.open(path .. ".new", "wb"))
  assert(file:write(text))
  assert(file:close())
  assert(os.rename(path .. ".new", path))
  return path
end

--- Three nodes, their state in nodes.toml, and these lines before them.
function helpers.configure(more)
  local text = ("node_state = %q\n%s\n"):format(helpers.path("nodes.toml"), more or "")
  for i = 1, 3 do
    text = text .. ([==[
[[node]]
name = "node#"
address = "10.0.0.#"
queue_group = "node#group"
host = "node#.example.org"
]==]):gsub("#", i)
  end
  return helpers.replace("mailaffinity.toml", text)
end

--- Writes the node state: these nodes are down.
function helpers.mark_down(...)
  local text = "# written\n"
  for _, node in ipairs { ... } do
    text = text .. ('[node.%s]\nstate = "down"\nsince = "2026-11-23T20:45:00Z"\nreason = "new disks"\n'):format(node)
  end
  helpers.replace("nodes.toml", text)
end

--- The names of the nodes that the command gives to users, or "-".
function helpers.by_command(config, users)
  helpers.replace("users", table.concat(users, "\n") .. "\n")
  local command = ("mailaffinity map --config %s <%s 2>/dev/null"):format(config, helpers.path("users"))
  local names = {}
  for line in io.popen(command):lines() do
    names[#names + 1] = line:match("^.*\t(%S+)\t%S+\t%S+$")
  end
  assert(#names == #users, #names .. " answers for " .. #users .. " users")
  return names
end

--- Answers of Lua and of the command that differ.
function helpers.differences(site, config, users)
  local different = {}
  for i, name in ipairs(helpers.by_command(config, users)) do
    local node, message = site.node(users[i])
    if (node and node.name or "-") ~= name then
      different[#different + 1] = ("%q: %s, and not %s (%s)"):format(users[i], node and node.name, name, message)
    end
  end
  return different
end

return helpers

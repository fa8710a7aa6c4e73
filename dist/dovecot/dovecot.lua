-- The passdb of Dovecot 2.4 that sends each user home: to the node that a Director of Dovecot
-- 2.3 would name. mailaffinity-node.conf and mailaffinity-proxy.conf, beside this file, set it
-- up; they say what lua_settings can be.

-- luacheck: globals dovecot script_init auth_password_verify auth_passdb_lookup

local mailaffinity = require "mailaffinity"

-- How each setting can be, and its value unless it is given. An empty one is not given.
local SETTINGS = {
  proxy = { default = "maybe", "maybe", "always" },
  starttls = { default = "yes", "yes", "no", "any-cert" },
  userdb_fields = { default = "no", "no", "yes" },
  tag = {},
  config = {},
  proxy_timeout = {},
  lmtp_port = { default = "24" },
}

local site, settings

-- What is wrong here ends auth at its start, and not each login later.
function script_init(given)
  settings = {}
  for key, value in pairs(given or {}) do
    if not SETTINGS[key] then
      error(("dovecot.lua: lua_settings: there is no %s"):format(key))
    end
    if value ~= "" then settings[key] = value end
  end
  for key, values in pairs(SETTINGS) do
    local value = settings[key] or values.default
    local good = #values == 0
    for _, possible in ipairs(values) do good = good or value == possible end
    if not good then
      error(("dovecot.lua: lua_settings: %s is one of %s, and not %s")
        :format(key, table.concat(values, ", "), value))
    end
    settings[key] = value
  end
  local problem
  site, problem = mailaffinity.open(settings.config)
  if not site then error("dovecot.lua: lua_settings: config: " .. problem) end
  return 0
end

-- Where a user's session is to be: what Dovecot calls this for, beside the site's own passdb.
local function look_up(request, extra)
  local node, message = site.node(request.user, settings.tag)
  if not node then
    -- A temporary failure: clients and mail servers come again, and nothing bounces.
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "mailaffinity: " .. message
  end
  if message then dovecot.i_warning("mailaffinity: " .. message) end
  -- The user's sessions on the old node, which lives, are being ended. A login waits for that;
  -- a delivery, for which Dovecot does not wait, comes again.
  local moves_at = node.moves_at
  if moves_at and request.protocol == "lmtp" then
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE,
      ("mailaffinity: moves from %s to %s"):format(node.name, node.moves_to.name)
  end
  node = node.moves_to or node
  local home = site.home(request.user, settings.tag)
  local fields = {
    [settings.proxy == "always" and "proxy" or "proxy_maybe"] = "y",
    host = node.host,
    proxy_timeout = settings.proxy_timeout,
    -- With it, Dovecot up to 2.4.4 loses a node's answer behind TLS now and then (a few of
    -- 10,000 IMAP logins on a loaded machine), and the client waits until the time is over.
    proxy_no_multiplex = "y",
    -- For doveadm who and doveadm kick -f user_node NODE: where the user is sent to, and
    -- where the user goes when all nodes are up.
    user_node = node.name,
    user_home = home and home.name,
    delay_until = moves_at and tostring(moves_at),
    [extra] = "y",
  }
  -- The same of sessions that are not proxied. With any such field, userdb prefetch takes the
  -- passdbs' word for all that there is to know of the user.
  if settings.userdb_fields == "yes" then
    fields.userdb_user_node, fields.userdb_user_home = fields.user_node, fields.user_home
  end
  -- A name is what the node's certificate is held against. It needs no DNS; two addresses
  -- that differ are refused.
  if node.host:find("[^%d.]") and not node.host:find(":", 1, true) then
    fields.hostip = node.address
  end
  -- Else it would be the port that the mail came to, and a node that is asked to send mail home
  -- would ask the next one for the same.
  if request.protocol == "lmtp" then fields.port = settings.lmtp_port end
  if settings.starttls ~= "no" then fields.starttls = settings.starttls end
  return dovecot.auth.PASSDB_RESULT_OK, fields
end

-- There is no auth_passdb_get_cache_key(), and may never be one: with it, Dovecot's auth cache
-- would go on with a node that is down, or with the configuration of before.

-- A login. Whoever it is, the passdbs before have said so.
function auth_password_verify(request)
  return look_up(request, "noauthenticate")
end

-- Without a password, as for a delivery.
function auth_passdb_lookup(request)
  return look_up(request, "nopassword")
end

-- Calls a tool on the sessions of a plan (see load.py) in turn, and checks every answer.

local plan, number
local threads = {}

wrong = 0

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  plan = dofile(args[1])
  number = plan.first
end

function request()
  number = number + 1
  local head = plan.heads[number % #plan.heads + 1]
  local body = string.format(plan.body, number, number)
  return head .. "Content-Length: " .. #body .. "\r\n\r\n" .. body
end

local right = {}

-- add(n, 1): n + 1 for n.
function right.add(body)
  local id = body:match('"id":%s*(%d+)')
  local result = body:match('"structuredContent":%s*{%s*"result":%s*(%d+)')
  return id and result and tonumber(result) == tonumber(id) + 1
end

-- slow_progress(3, 0): the progress events 1, 2, 3 with the token n, then the result for n; all with event ids, and
-- before them a priming event.
function right.progress(body)
  local token, events = nil, 0
  for event in body:gmatch('data: ({[^\r\n]+)') do
    events = events + 1
    if events == 4 then
      if not event:match('"structuredContent":%s*{%s*"steps":%s*3%s*}') then return false end
      if event:match('"id":%s*(%d+)') ~= token then return false end
    else
      if tonumber(event:match('"progress":%s*([%d.]+)')) ~= events then return false end
      if event:match('"progressToken":%s*(%d+)') ~= (token or event:match('"progressToken":%s*(%d+)')) then return false end
      token = event:match('"progressToken":%s*(%d+)')
    end
  end
  local _, ids = ("\n" .. body):gsub('[\r\n]id: [^\r\n]+', '')
  return events == 4 and ids == 5
end

function response(status, headers, body)
  if status ~= 200 or not right[plan.call](body) then
    if wrong == 0 then
      io.stderr:write("first wrong answer: ", status, " ", body:sub(1, 300), "\n")
    end
    wrong = wrong + 1
  end
end

function done(summary, latency, requests)
  local wrong_answers = 0
  for _, thread in ipairs(threads) do
    wrong_answers = wrong_answers + thread:get("wrong")
  end
  local broken = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  local line = '{"requests": %d, "microseconds": %d, "p50": %.0f, "p99": %.0f, "wrong": %d, "broken": %d}\n'
  io.write(string.format(
    line, summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), wrong_answers, broken
  ))
end

-- Calls add(n, 1) on the sessions of a plan (see load.py) in turn, and checks every answer: status 200, and n + 1 for n.

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

function response(status, headers, body)
  local id = body:match('"id":%s*(%d+)')
  local result = body:match('"structuredContent":%s*{%s*"result":%s*(%d+)')
  if status ~= 200 or not id or not result or tonumber(result) ~= tonumber(id) + 1 then
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

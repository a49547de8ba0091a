// What the drivers of the TypeScript clients have in common. Packages are found from the folder that NODE_MODULES_HOME
// names. What a client saw on its own is kept in `seen`, in order.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.env.NODE_MODULES_HOME, "package.json"));

export const load = (name) => import(pathToFileURL(require.resolve(name)).href);
export const seen = [];
export const progressed = ({ progress }) => seen.push(["progress", progress]);
export const listChanged = ({ method }) => seen.push([method]);
export const updated = ({ method, params }) => seen.push([method, params.uri]);
export const asked = ({ params }) => {
  seen.push(["asked", params.message]);
  return { action: "accept", content };
};
let content;

// `make(info, mode)` returns a client, and its way to call a tool, which the releases spell differently. One that has a
// stream of notices to open says so by `listen`.
export async function serve(Transport, make) {
  let client, transport, callTool, listen, call, abort;

  const tool = ({ name, arguments: args, seconds = 60 }, options) =>
    callTool({ name, arguments: args }, { onprogress: progressed, timeout: seconds * 1000, ...options });

  const commands = {
    async connect({ url, name, headers, mode = "legacy", content: answer }) {
      seen.length = 0;
      content = answer ?? { name: "Ada" };
      ({ client, callTool, listen } = make({ name, version: "1" }, mode));
      client.onerror = (error) => console.error(error.message);
      transport = new Transport(new URL(url), { requestInit: { headers } });
      await client.connect(transport);
      return { protocolVersion: transport.protocolVersion };
    },
    negotiated: () => transport.protocolVersion,
    call: (command) => tool(command),
    begin(command) {
      abort = new AbortController();
      call = tool(command, { signal: abort.signal }).then(
        (result) => `It ended with ${JSON.stringify(result)}`,
        () => "given up",
      );
      return null;
    },
    give_up() {
      abort.abort("given up");
      return call;
    },
    seen: () => seen,
    // A session has its GET stream, which needs no asking.
    async listen({ tools, uris }) {
      if (listen && transport.protocolVersion === "2026-07-28") {
        await listen({ toolsListChanged: tools, resourceSubscriptions: uris });
      } else {
        for (const uri of uris) await client.subscribeResource({ uri });
      }
      return null;
    },
    read: ({ uri }) => client.readResource({ uri }),
    prompt: ({ name, arguments: args }) => client.getPrompt({ name, arguments: args }),
    async complete({ prompt, argument, value }) {
      const params = { ref: { type: "ref/prompt", name: prompt }, argument: { name: argument, value } };
      return (await client.complete(params)).completion.values;
    },
    async list() {
      return {
        tools: (await client.listTools()).tools.map((tool) => tool.name),
        resources: (await client.listResources()).resources.map((resource) => resource.uri),
        templates: (await client.listResourceTemplates()).resourceTemplates.map((each) => each.uriTemplate),
        prompts: (await client.listPrompts()).prompts.map((prompt) => prompt.name),
      };
    },
    async close() {
      try {
        await transport.terminateSession();
      } finally {
        await client.close();
      }
      return null;
    },
  };

  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    let answer;
    try {
      answer = { ok: true, result: await commands[command.do](command) };
    } catch (error) {
      console.error(error);
      answer = { ok: false, error: `${error.name}: ${error.message}` };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit(0);
}

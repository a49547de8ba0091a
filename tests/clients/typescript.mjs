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
export const asked = ({ params }) => {
  seen.push(["asked", params.message]);
  return { action: "accept", content: { name: "Ada" } };
};

// `make(info)` returns a client, and its way to call a tool, which the releases spell differently.
export async function serve(Transport, make) {
  let client, transport, callTool;

  const commands = {
    async connect({ url, name, headers }) {
      seen.length = 0;
      ({ client, callTool } = make({ name, version: "1" }));
      client.onerror = (error) => console.error(error.message);
      transport = new Transport(new URL(url), { requestInit: { headers } });
      await client.connect(transport);
      return { protocolVersion: transport.protocolVersion };
    },
    call: ({ name, arguments: args, seconds = 60 }) =>
      callTool({ name, arguments: args }, { onprogress: progressed, timeout: seconds * 1000 }),
    seen: () => seen,
    read: ({ uri }) => client.readResource({ uri }),
    prompt: ({ name }) => client.getPrompt({ name }),
    async list() {
      const { completion } = await client.complete({
        ref: { type: "ref/prompt", name: "test_prompt_with_arguments" },
        argument: { name: "arg1", value: "" },
      });
      return {
        tools: (await client.listTools()).tools.map((tool) => tool.name),
        resources: (await client.listResources()).resources.map((resource) => resource.uri),
        templates: (await client.listResourceTemplates()).resourceTemplates.map((each) => each.uriTemplate),
        prompts: (await client.listPrompts()).prompts.map((prompt) => prompt.name),
        completions: completion.values,
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

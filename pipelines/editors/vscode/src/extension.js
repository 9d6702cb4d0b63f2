// Starts `grape lsp` of the user's own environment and hands the editor to it. It bundles no
// server, so that editor and command line can never disagree about the language.
"use strict";

const fs = require("fs");
const path = require("path");
const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

/** The command of the settings, else the environment of an open folder, else the PATH. An
 * environment inside a folder is a program of that folder: it runs only in a trusted one. */
function command() {
  const chosen = vscode.workspace.getConfiguration("grape").get("command");
  if (chosen) return chosen;
  const inside = process.platform === "win32" ? [".venv", "Scripts", "grape.exe"] : [".venv", "bin", "grape"];
  for (const folder of vscode.workspace.isTrusted ? vscode.workspace.workspaceFolders ?? [] : []) {
    const candidate = path.join(folder.uri.fsPath, ...inside);
    if (fs.existsSync(candidate)) return candidate;
  }
  return "grape";
}

async function start() {
  const server = { command: command(), args: ["lsp"] };
  client = new LanguageClient("grape", "Grape", server, {
    documentSelector: [{ scheme: "file", language: "grape" }],
    synchronize: { fileEvents: vscode.workspace.createFileSystemWatcher("**/*.grape") },
  });
  try {
    await client.start();
  } catch (error) {
    vscode.window.showErrorMessage(
      `Grape: \`${server.command} lsp\` did not start (${error.message}). ` +
        "Install it with: pip install 'grape-lang[lsp]', or set grape.command."
    );
  }
}

async function stop() {
  const running = client;
  client = undefined;
  if (running) await running.dispose();
}

async function activate(context) {
  context.subscriptions.push(
    vscode.commands.registerCommand("grape.restart", async () => {
      await stop();
      await start();
    }),
    vscode.workspace.onDidGrantWorkspaceTrust(async () => {
      await stop();
      await start();
    })
  );
  await start();
}

module.exports = { activate, deactivate: stop };

"""The language server: messages in, answers out, over standard input and output.

Each handler finds the analysis and hands over to the module that answers. A handler that fails is
logged and answered with an error, and the server goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lsprotocol import types as lsp
from pygls.exceptions import FeatureRequestError, JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer

from grape.dsl.catalogue import entry
from grape.dsl.findings import Edit, Finding
from grape.dsl.format import format_text
from grape.dsl.lsp import explain, names, outline
from grape.dsl.lsp.analyser import Analyser, Analysis
from grape.dsl.lsp.complete import complete
from grape.dsl.lsp.convert import Converter, path_of, uri_of
from grape.dsl.lsp.project import Project

if TYPE_CHECKING:
    from pygls.server import ServerErrors

DELAY = 0.005
"""Seconds without a keystroke before the file is checked."""
_LOG = logging.getLogger("grape.lsp")
_SEVERITIES = {
    "error": lsp.DiagnosticSeverity.Error,
    "warning": lsp.DiagnosticSeverity.Warning,
}


class GrapeServer(LanguageServer):
    """The server with its project; `published` says which files each open one had findings in."""

    def __init__(self, analyser: Analyser, version: str) -> None:
        super().__init__("grape", version, lsp.TextDocumentSyncKind.Full)
        self.project = Project(analyser)
        self.published: dict[Path, set[Path]] = {}
        self._waiting: asyncio.TimerHandle | None = None
        self._stale: dict[Path, None] = {}

    @property
    def convert(self) -> Converter:
        encoding = self.workspace.position_encoding or lsp.PositionEncodingKind.Utf16
        return Converter(str(getattr(encoding, "value", encoding)))

    def report_server_error(self, error: Exception, source: ServerErrors) -> None:
        """Log what went wrong outside a request; the user is not interrupted."""
        if source is not FeatureRequestError:
            _LOG.error("%s", error, exc_info=error)

    def opened(self, uri: str) -> tuple[Path, Analysis]:
        """The file of a request and what is known about it. Raises JsonRpcInvalidParams."""
        path = path_of(uri)
        if path is None:
            raise JsonRpcInvalidParams(f"{uri} is not a file")
        try:
            return path, self.project.analysis(path)
        except OSError as error:
            raise JsonRpcInvalidParams(f"{uri} cannot be read: {error}") from None

    def offset(self, analysis: Analysis, position: lsp.Position) -> int:
        return self.convert.offset(analysis.source.text, position)

    def uri(self, path: Path) -> str:
        """The address that the client knows a file by."""
        return self.project.uris.get(path) or uri_of(path)

    # --- findings -----------------------------------------------------------------------------

    def schedule(self, paths: Iterable[Path]) -> None:
        """Check these files, and the open ones that read them, once typing pauses."""
        self._stale |= dict.fromkeys(paths)
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = asyncio.get_event_loop().call_later(DELAY, self._check_stale)

    def _check_stale(self) -> None:
        self._waiting = None
        first, self._stale = self._stale, {}
        waiting = [path for path in self.project.texts if not self.project.is_known(path)]
        for path in dict.fromkeys([*first, *waiting]):
            if path in self.project.texts:
                try:
                    self.publish(path)
                except Exception as error:
                    _LOG.error("checking %s failed: %s", path, error, exc_info=error)

    def publish(self, path: Path) -> None:
        """Send the findings of an open file, and of the closed files that it imports."""
        analysis = self.project.analysis(path)
        by_file: dict[Path, list[Finding]] = {path: []}
        for finding in analysis.findings:
            file = analysis.paths.get(finding.span.source.path)
            if file is not None and (file == path or file not in self.project.texts):
                by_file.setdefault(file, []).append(finding)
        for file in self.published.get(path, set()) - by_file.keys():
            self._send(file, [], analysis)
        for file, findings in by_file.items():
            self._send(file, findings, analysis)
        self.published[path] = by_file.keys() - {path}

    def retract(self, path: Path) -> None:
        """Take back what was said because of a file that was closed."""
        for file in {path} | self.published.pop(path, set()):
            if file not in self.project.texts:
                diagnostics = lsp.PublishDiagnosticsParams(self.uri(file), [])
                self.text_document_publish_diagnostics(diagnostics)

    def _send(self, file: Path, findings: list[Finding], analysis: Analysis) -> None:
        made = [self.diagnostic(finding, analysis) for finding in findings]
        self.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(self.uri(file), made))

    def diagnostic(self, finding: Finding, analysis: Analysis) -> lsp.Diagnostic:
        """A finding with its labels; the hint stands on a line of its own."""
        known = entry(finding.code)
        span = finding.span
        related = [
            lsp.DiagnosticRelatedInformation(
                lsp.Location(
                    self.uri(analysis.paths[label.span.source.path]),
                    self.convert.range(label.span.source.text, label.span.start, label.span.end),
                ),
                label.text,
            )
            for label in finding.labels
            if label.span.source.path in analysis.paths
        ]
        unused = [lsp.DiagnosticTag.Unnecessary] if finding.code in ("G008", "G106") else None
        return lsp.Diagnostic(
            range=self.convert.range(span.source.text, span.start, span.end),
            message=finding.message + (f"\n{finding.hint}" if finding.hint else ""),
            severity=_SEVERITIES[known.severity],
            code=finding.code,
            source="grape",
            related_information=related or None,
            tags=unused,
        )

    def text_edits(self, edits: Iterable[Edit]) -> list[lsp.TextEdit]:
        return [
            lsp.TextEdit(
                self.convert.range(edit.span.source.text, edit.span.start, edit.span.end), edit.text
            )
            for edit in edits
        ]


def serve(analyser: Analyser, version: str) -> None:
    """Answer a client over standard input and output until it says goodbye."""
    logging.getLogger("pygls.protocol.json_rpc").addFilter(_is_ours)
    make_server(analyser, version).start_io()


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a failed request is our fault: a refusal is an answer, not an error to log."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, JsonRpcInvalidParams)


def make_server(analyser: Analyser, version: str) -> GrapeServer:
    """A server with every feature registered."""
    server = GrapeServer(analyser, version)
    _register_texts(server)
    _register_reading(server)
    _register_names(server)
    _register_renaming(server)
    _register_writing(server)
    _register_shapes(server)
    return server


def _register_texts(server: GrapeServer) -> None:
    @server.feature(lsp.INITIALIZED)
    def initialized(ls: GrapeServer, params: lsp.InitializedParams) -> None:
        folders = [path_of(uri) for uri in ls.workspace.folders]
        root = path_of(ls.workspace.root_uri) if ls.workspace.root_uri else None
        ls.project.folders = [path for path in (*folders, root) if path is not None]

    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    def did_open(ls: GrapeServer, params: lsp.DidOpenTextDocumentParams) -> None:
        path = path_of(params.text_document.uri)
        if path is not None:
            ls.project.uris[path] = params.text_document.uri
            ls.project.put(path, params.text_document.text)
            ls.schedule([path])

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    def did_change(ls: GrapeServer, params: lsp.DidChangeTextDocumentParams) -> None:
        path = path_of(params.text_document.uri)
        if path is not None and params.content_changes:
            ls.project.put(path, params.content_changes[-1].text)
            ls.schedule([path])

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def did_close(ls: GrapeServer, params: lsp.DidCloseTextDocumentParams) -> None:
        path = path_of(params.text_document.uri)
        if path is not None:
            ls.project.close(path)
            ls.retract(path)
            ls.schedule([])

    @server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    def did_save(ls: GrapeServer, params: lsp.DidSaveTextDocumentParams) -> None:
        _disk_changed(ls)

    @server.feature(lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    def did_change_files(ls: GrapeServer, params: lsp.DidChangeWatchedFilesParams) -> None:
        _disk_changed(ls)

    @server.feature(lsp.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)
    def did_change_folders(ls: GrapeServer, params: lsp.DidChangeWorkspaceFoldersParams) -> None:
        folders = [path_of(uri) for uri in ls.workspace.folders]
        ls.project.folders = [path for path in folders if path is not None]


def _disk_changed(server: GrapeServer) -> None:
    """Data files and imports may be other ones now: check every open file again."""
    server.project.forget_all()
    server.schedule(list(server.project.texts))


def _register_reading(server: GrapeServer) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    def hover(ls: GrapeServer, params: lsp.HoverParams) -> lsp.Hover | None:
        _, analysis = ls.opened(params.text_document.uri)
        offset = ls.offset(analysis, params.position)
        return explain.hover(ls.project.analyser, analysis, ls.convert, offset)

    @server.feature(
        lsp.TEXT_DOCUMENT_COMPLETION,
        lsp.CompletionOptions(trigger_characters=[".", "{", '"', "/", "(", "="]),
    )
    def completion(ls: GrapeServer, params: lsp.CompletionParams) -> lsp.CompletionList:
        path, analysis = ls.opened(params.text_document.uri)
        offset = ls.offset(analysis, params.position)
        items = complete(ls.project, analysis, ls.convert, path, offset)
        return lsp.CompletionList(is_incomplete=False, items=items)

    @server.feature(
        lsp.TEXT_DOCUMENT_SIGNATURE_HELP, lsp.SignatureHelpOptions(trigger_characters=["(", ","])
    )
    def signature(ls: GrapeServer, params: lsp.SignatureHelpParams) -> lsp.SignatureHelp | None:
        _, analysis = ls.opened(params.text_document.uri)
        offset = ls.offset(analysis, params.position)
        return explain.signature_help(analysis, analysis.source.text, offset)

    @server.feature(lsp.TEXT_DOCUMENT_INLAY_HINT)
    def inlay(ls: GrapeServer, params: lsp.InlayHintParams) -> list[lsp.InlayHint]:
        _, analysis = ls.opened(params.text_document.uri)
        start, end = (ls.offset(analysis, p) for p in (params.range.start, params.range.end))
        return outline.inlay_hints(analysis, ls.convert, start, end)


def _register_names(server: GrapeServer) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_DEFINITION)
    def definition(ls: GrapeServer, params: lsp.DefinitionParams) -> lsp.Location | None:
        path, analysis = ls.opened(params.text_document.uri)
        offset = ls.offset(analysis, params.position)
        found = names.occurrence_at(analysis, offset)
        if found is None:
            return None
        span = found.symbol.span
        home = analysis.paths.get(span.source.path, path)
        where = ls.convert.range(span.source.text, span.start, span.end)
        return lsp.Location(ls.uri(home), where)

    @server.feature(lsp.TEXT_DOCUMENT_REFERENCES)
    def references(ls: GrapeServer, params: lsp.ReferenceParams) -> list[lsp.Location]:
        path, analysis = ls.opened(params.text_document.uri)
        found = names.occurrence_at(analysis, ls.offset(analysis, params.position))
        if found is None:
            return []
        with_definition = params.context.include_declaration
        places = []
        for file, spans in names.references(ls.project, path, found.symbol).items():
            for span in spans:
                defines = found.symbol.key == (span.source.path, span.start)
                if with_definition or not defines:
                    where = ls.convert.range(span.source.text, span.start, span.end)
                    places.append(lsp.Location(ls.uri(file), where))
        return places

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT)
    def highlight(
        ls: GrapeServer, params: lsp.DocumentHighlightParams
    ) -> list[lsp.DocumentHighlight]:
        _, analysis = ls.opened(params.text_document.uri)
        found = names.occurrence_at(analysis, ls.offset(analysis, params.position))
        kinds = {True: lsp.DocumentHighlightKind.Write, False: lsp.DocumentHighlightKind.Read}
        return [
            lsp.DocumentHighlight(
                ls.convert.range(analysis.source.text, item.span.start, item.span.end),
                kinds[item.defines],
            )
            for item in analysis.occurrences
            if found is not None and item.symbol.key == found.symbol.key
        ]


def _register_renaming(server: GrapeServer) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_PREPARE_RENAME)
    def prepare(ls: GrapeServer, params: lsp.PrepareRenameParams) -> lsp.Range:
        _, analysis = ls.opened(params.text_document.uri)
        try:
            found = names.renamable(analysis, ls.offset(analysis, params.position))
        except names.CannotRename as error:
            raise JsonRpcInvalidParams(str(error)) from None
        return ls.convert.range(analysis.source.text, found.span.start, found.span.end)

    @server.feature(lsp.TEXT_DOCUMENT_RENAME, lsp.RenameOptions(prepare_provider=True))
    def rename(ls: GrapeServer, params: lsp.RenameParams) -> lsp.WorkspaceEdit:
        path, analysis = ls.opened(params.text_document.uri)
        offset = ls.offset(analysis, params.position)
        try:
            places = names.rename(ls.project, path, offset, params.new_name)
        except names.CannotRename as error:
            raise JsonRpcInvalidParams(str(error)) from None
        changes = {
            ls.uri(file): ls.text_edits(Edit(span, params.new_name) for span in spans)
            for file, spans in places.items()
        }
        return lsp.WorkspaceEdit(changes=changes)


def _register_writing(server: GrapeServer) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_FORMATTING)
    def formatting(
        ls: GrapeServer, params: lsp.DocumentFormattingParams
    ) -> list[lsp.TextEdit] | None:
        path = path_of(params.text_document.uri)
        text = ls.project.texts.get(path) if path else None
        if text is None:
            return None
        try:
            formatted = format_text(text)
        except ValueError:
            return None
        if formatted == text:
            return []
        return [lsp.TextEdit(ls.convert.range(text, 0, len(text)), formatted)]

    @server.feature(
        lsp.TEXT_DOCUMENT_CODE_ACTION,
        lsp.CodeActionOptions(code_action_kinds=[lsp.CodeActionKind.QuickFix]),
    )
    def actions(ls: GrapeServer, params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
        path, analysis = ls.opened(params.text_document.uri)
        start, end = (ls.offset(analysis, p) for p in (params.range.start, params.range.end))
        found = []
        for finding in analysis.findings:
            inside = finding.span.start <= end and start <= finding.span.end
            if finding.fix and inside and analysis.paths.get(finding.span.source.path) == path:
                edits = {ls.uri(path): ls.text_edits(finding.fix.edits)}
                found.append(
                    lsp.CodeAction(
                        title=finding.fix.title[:1].upper() + finding.fix.title[1:],
                        kind=lsp.CodeActionKind.QuickFix,
                        diagnostics=[ls.diagnostic(finding, analysis)],
                        is_preferred=finding.fix.safe,
                        edit=lsp.WorkspaceEdit(changes=edits),
                    )
                )
        return found


def _register_shapes(server: GrapeServer) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def symbols(ls: GrapeServer, params: lsp.DocumentSymbolParams) -> list[lsp.DocumentSymbol]:
        _, analysis = ls.opened(params.text_document.uri)
        return outline.document_symbols(analysis, ls.convert)

    @server.feature(lsp.TEXT_DOCUMENT_FOLDING_RANGE)
    def folding(ls: GrapeServer, params: lsp.FoldingRangeParams) -> list[lsp.FoldingRange]:
        _, analysis = ls.opened(params.text_document.uri)
        return outline.folding_ranges(analysis.source.text, ls.convert)

    legend = lsp.SemanticTokensLegend(
        token_types=list(outline.TOKEN_TYPES), token_modifiers=list(outline.TOKEN_MODIFIERS)
    )

    @server.feature(lsp.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL, legend)
    def tokens(ls: GrapeServer, params: lsp.SemanticTokensParams) -> lsp.SemanticTokens:
        _, analysis = ls.opened(params.text_document.uri)
        return outline.semantic_tokens(analysis, ls.convert)

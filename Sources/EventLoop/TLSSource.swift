import Synchronization

/// A TLS context made of files, that is replaced whole when they change: who asks next gets the new one, connections keep theirs.
// Unchecked because it is open: subclasses guard what changes.
open class TLSSource: @unchecked Sendable {
    /// The paths that it is made of.
    public final let files: [String]

    init(files: [String]) { self.files = files }

    /// Makes a context of the files' contents and puts it in the place of the present one; throws and leaves that when they are no good.
    func install(_ contents: FileSnapshot) throws(TLSError) {}
    /// Of the certificates that the present context shows.
    public var expiries: [CertificateExpiry] { [] }
}

/// The certificates of listeners.
public final class TLSServerSource: TLSSource, @unchecked Sendable {
    // Unchecked: as its superclass.
    private let settings: TLSServerSettings
    private let ticketKeys: TLSTicketKeys
    private let context: Mutex<TLSServerContext>

    /// Reads the files; throws what is wrong with them.
    public init(_ settings: TLSServerSettings, ticketKeys: TLSTicketKeys) throws(TLSError) {
        self.settings = settings
        self.ticketKeys = ticketKeys
        context = Mutex(try TLSServerContext(settings, files: try FileSnapshot(settings.files), ticketKeys: ticketKeys))
        super.init(files: settings.files)
    }

    /// For the next handshake.
    public var current: TLSServerContext { context.withLock { $0 } }

    override func install(_ contents: FileSnapshot) throws(TLSError) {
        let fresh = try TLSServerContext(settings, files: contents, ticketKeys: ticketKeys)
        context.withLock { $0 = fresh }
    }

    public override var expiries: [CertificateExpiry] { current.expiries }
}

/// Trust and certificate for connections to backends.
public final class TLSClientSource: TLSSource, @unchecked Sendable {
    // Unchecked: as its superclass.
    private let settings: TLSClientSettings
    private let context: Mutex<TLSClientContext>

    /// Reads the files; throws what is wrong with them.
    public init(_ settings: TLSClientSettings) throws(TLSError) {
        self.settings = settings
        context = Mutex(try TLSClientContext(settings, files: try FileSnapshot(settings.files).with(settings.inlineContents)))
        super.init(files: settings.files)
    }

    /// For the next handshake.
    public var current: TLSClientContext { context.withLock { $0 } }

    override func install(_ contents: FileSnapshot) throws(TLSError) {
        let fresh = try TLSClientContext(settings, files: contents.with(settings.inlineContents))
        context.withLock { $0 = fresh }
    }

    public override var expiries: [CertificateExpiry] { current.expiries }
}

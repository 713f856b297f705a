import Foundation

/// A list while its pages, or the initial events of a streaming one, come in. Pure.
struct ListAssembly<Object: KubernetesObject>: Sendable {
    typealias Store = ObjectStore<Object>

    private(set) var objects: [Store.Key: Object] = [:]
    /// Objects of which nothing can be read but which ones they are, with what is wrong.
    private(set) var unreadable: [Store.Key: String] = [:]
    /// Of the first page, and thus of all.
    private(set) var version: String?
    /// Where the next page begins; nil before the first and after the last.
    private(set) var continueToken: String?
    /// It came to no end: the next try is better made without pages.
    private(set) var isEndless = false
    private var pages = 0
    private var emptyPages = 0

    private var count: Int { objects.count + unreadable.count }

    /// - Parameter known: has the last good state of what cannot be read.
    /// - Returns: whether this page was the last.
    mutating func take(page bytes: [UInt8], known: Store, _ settings: ReflectorSettings) throws(WatchFault) -> Bool {
        let page: ListPage<Object>
        do { page = try JSONDecoder().decode(ListPage<Object>.self, from: Data(bytes)) } catch {
            throw WatchFault(.malformed, "a list that makes no sense: \(decodingErrorText(error))")
        }
        guard let found = page.metadata.resourceVersion, !found.isEmpty, version == nil || version == found else {
            throw WatchFault(.malformed, "the pages of a list are of different versions")
        }
        version = found
        let before = count
        for item in page.items ?? [] {
            switch item {
            case .object(let object): objects[Store.Key(object.metadata)] = object
            case .unreadable(let object): passOver(object, known)
            }
        }
        try checkCount(settings)
        guard let token = page.metadata.continue, !token.isEmpty else {
            continueToken = nil
            return true
        }
        (pages, emptyPages) = (pages + 1, count == before ? emptyPages + 1 : 0)
        guard pages <= settings.pages, emptyPages < ReflectorSettings.emptyPages else {
            isEndless = true
            throw WatchFault(.malformed, "a list does not come to its end: \(pages) pages, the last \(emptyPages) without anything new")
        }
        continueToken = token
        return false
    }

    /// - Returns: the version of the whole when this event says that it is whole.
    mutating func take(initial event: WatchEvent<Object>, known: Store, _ settings: ReflectorSettings) throws(WatchFault) -> String? {
        switch event {
        case .updated(let object): objects[Store.Key(object.metadata)] = object
        case .unreadable(let object): passOver(object, known)
        case .deleted(let metadata): objects[Store.Key(metadata)] = nil
        case .bookmark(let version, true): return version
        case .bookmark, .error: break
        }
        try checkCount(settings)
        return nil
    }

    /// What was told of these objects since is later than the list.
    mutating func replace(_ keys: some Sequence<Store.Key>, from known: Store, unreadable others: [Store.Key: String]) {
        for key in keys { (objects[key], unreadable[key]) = (known.objects[key], others[key]) }
    }

    /// One bad object is not worth the others, and what it was is better than nothing.
    private mutating func passOver(_ object: UnreadableObject, _ known: Store) {
        let key = Store.Key(object)
        objects[key] = known.objects[key]
        unreadable[key] = object.reason
    }

    private func checkCount(_ settings: ReflectorSettings) throws(WatchFault) {
        guard count <= settings.objects else { throw WatchFault(.malformed, "more than \(settings.objects) objects") }
    }
}

//! TLS with certificates of an authority made for the test, so that nothing on the machine trusts
//! them: files for a server, a client, and a proxy before a server that speaks none.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A client's end of a TLS connection.
pub type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

/// The year in which certificates of clients end.
const GOOD_UNTIL: i32 = 4000;

/// A certificate and its key, as files hold them (PEM).
#[derive(Clone, Debug)]
pub struct CertificateAndKey {
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// A certificate authority.
#[derive(Debug)]
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl TestCa {
    /// A new one, with a key of its own.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate, which a client trusts for all that it issues.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What a server needs to show that it is `host`, a name or an address.
    pub fn server(&self, host: &str) -> CertificateAndKey {
        self.issue(CertificateParams::new([host.to_owned()]).unwrap())
    }

    /// What a client needs to show that it is one with this common name and these URIs.
    pub fn client(&self, common_name: Option<&str>, uris: &[&str]) -> CertificateAndKey {
        self.issue(client(common_name, uris))
    }

    /// The same of one that was over long ago.
    pub fn former_client(&self, common_name: &str) -> CertificateAndKey {
        let mut params = client(Some(common_name), &[]);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        self.issue(params)
    }

    /// The certificate for a signing request: the certificate, and its issuer's (PEM).
    pub(crate) fn sign(
        &self,
        mut request: CertificateSigningRequestParams,
        begins: SystemTime,
        life: Duration,
    ) -> String {
        request.params.not_before = begins.into();
        request.params.not_after = (begins + life).into();
        format!("{}{}", request.signed_by(&self.issuer).unwrap().pem(), self.pem)
    }

    fn issue(&self, params: CertificateParams) -> CertificateAndKey {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        CertificateAndKey { certificate, key: key.serialize_pem() }
    }

    /// What a server needs to show that it is `host`, a name or an address.
    pub(crate) fn acceptor(&self, host: &str) -> TlsAcceptor {
        self.acceptor_of(&[host.to_owned()], &[])
    }

    /// The same for several hosts, which speaks these protocols (RFC 7301).
    pub(crate) fn acceptor_of(&self, hosts: &[String], protocols: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(hosts).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![CertificateDer::from(certificate)];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

fn client(common_name: Option<&str>, uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    if let Some(name) = common_name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    let uri = |uri: &&str| SanType::URI(Ia5String::try_from((*uri).to_owned()).unwrap());
    params.subject_alt_names = uris.iter().map(uri).collect();
    params.not_after = date_time_ymd(GOOD_UNTIL, 1, 1);
    params
}

/// A client that trusts one CA.
#[derive(Clone, Debug)]
pub struct TlsClient {
    authority: String,
    identity: Option<CertificateAndKey>,
    protocols: Vec<Vec<u8>>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl TlsClient {
    /// One that shows no certificate, and does not say what it will speak.
    pub fn of(authority: &TestCa) -> Self {
        Self {
            authority: authority.pem().to_owned(),
            identity: None,
            protocols: Vec::new(),
            versions: rustls::ALL_VERSIONS.to_vec(),
        }
    }

    /// Shows a certificate.
    #[must_use]
    pub fn identity(mut self, identity: &CertificateAndKey) -> Self {
        self.identity = Some(identity.clone());
        self
    }

    /// Offers to speak these (RFC 7301).
    #[must_use]
    pub fn protocols(mut self, protocols: &[&str]) -> Self {
        self.protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// Speaks TLS 1.2 and nothing newer.
    #[must_use]
    pub fn only_tls12(mut self) -> Self {
        self.versions = vec![&rustls::version::TLS12];
        self
    }

    /// Connects to a server.
    ///
    /// # Errors
    ///
    /// There is no connection. With TLS 1.3, a server refuses a client's certificate only after that.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TlsStream> {
        self.connect_as(ServerName::from(address.ip()), address).await
    }

    /// Connects to a server as if its name led there.
    ///
    /// # Errors
    ///
    /// As [`TlsClient::connect`].
    pub async fn connect_to(&self, host: &str, address: SocketAddr) -> io::Result<TlsStream> {
        self.connect_as(ServerName::try_from(host.to_owned()).unwrap(), address).await
    }

    async fn connect_as(
        &self,
        name: ServerName<'static>,
        address: SocketAddr,
    ) -> io::Result<TlsStream> {
        let connector = TlsConnector::from(Arc::new(self.config()));
        connector.connect(name, TcpStream::connect(address).await?).await
    }

    fn config(&self) -> ClientConfig {
        let certificate =
            |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.authority)).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(ring)
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                let chain = vec![certificate(&issued.certificate)];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols.clone_from(&self.protocols);
        config
    }
}

/// A proxy that takes TLS and passes the bytes on without. Stops when it is dropped.
#[derive(Debug)]
pub struct TlsProxy {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl TlsProxy {
    /// Starts one on a port of its own on loopback, whose certificate is for that address.
    pub async fn start(authority: &TestCa, to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = authority.acceptor(&address.ip().to_string());
        Self { address, accepting: tokio::spawn(accept(listener, acceptor, to)) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, to: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(pass_on(stream, acceptor.clone(), to));
        while connections.try_join_next().is_some() {}
    }
}

/// An error is a client that does not trust us, or that goes away.
async fn pass_on(stream: TcpStream, acceptor: TlsAcceptor, to: SocketAddr) -> io::Result<()> {
    let mut outside = acceptor.accept(stream).await?;
    let mut inside = TcpStream::connect(to).await?;
    copy_bidirectional(&mut outside, &mut inside).await?;
    Ok(())
}

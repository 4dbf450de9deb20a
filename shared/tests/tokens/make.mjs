// Writes `tokens.json`: tokens for tests, signed with OpenSSL by way of Node's crypto, and what that says of signatures that
// are damaged or of another kind. `node make.mjs > tokens.json` makes others, with keys of their own; private keys and secrets
// are of no use to anybody but these tests, and the private keys are not kept at all.
import * as crypto from 'node:crypto';

const text = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const part = (bytes) => Buffer.from(bytes).toString('base64url');

const secret = 'a secret for tests alone, sixty-four bytes long and known to all';
const pairs = {
  RS256: crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ES256: crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  EdDSA: crypto.generateKeyPairSync('ed25519'),
};
const large = crypto.generateKeyPairSync('rsa', { modulusLength: 3072, publicExponent: 3 });
const pem = (pair) => pair.publicKey.export({ type: 'spki', format: 'pem' });
const refused = {
  'RSA of 1024 bits': pem(crypto.generateKeyPairSync('rsa', { modulusLength: 1024 })),
  'P-384': pem(crypto.generateKeyPairSync('ec', { namedCurve: 'P-384' })),
  'Ed448': pem(crypto.generateKeyPairSync('ed448')),
  'PKCS#1': pairs.RS256.publicKey.export({ type: 'pkcs1', format: 'pem' }),
};

const claims = (number) => ({
  iss: 'https://issuer.example', sub: `user-${number}`, aud: ['api', 'other'], jti: `token-${number}`,
  iat: 1_800_000_000, nbf: 1_800_000_000, exp: 1_800_003_600, number, admin: number % 2 === 0,
});
const hmac = { HS256: 'sha256', HS384: 'sha384', HS512: 'sha512' };
const sign = (alg, input) => {
  if (hmac[alg]) return crypto.createHmac(hmac[alg], secret).update(input).digest();
  const key = pairs[alg].privateKey;
  return crypto.sign(alg === 'EdDSA' ? null : 'sha256', input, { key, dsaEncoding: 'ieee-p1363' });
};
// A signature of another length than the algorithm's makes OpenSSL throw.
const holds = (alg, input, signature) => {
  if (hmac[alg]) return sign(alg, input).equals(signature);
  try {
    const key = { key: pairs[alg].publicKey, dsaEncoding: 'ieee-p1363' };
    return crypto.verify(alg === 'EdDSA' ? null : 'sha256', input, key, signature);
  } catch {
    return false;
  }
};

const number = (bytes, order) => {
  const all = order === 'le' ? Buffer.from(bytes).reverse() : Buffer.from(bytes);
  return BigInt(`0x${all.toString('hex')}`);
};
const bytes = (value, length, order) => {
  const all = Buffer.from(value.toString(16).padStart(2 * length, '0'), 'hex');
  return order === 'le' ? all.reverse() : all;
};
const P256_ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const ED25519_ORDER = 2n ** 252n + 27742317777372353535851937790883648493n;
const half = (signature, n) => signature.subarray(32 * n, 32 * n + 32);

const tokens = [];
const judge = (alg, what, input, signature) => {
  const valid = holds(alg, Buffer.from(input), Buffer.from(signature));
  tokens.push({ alg, what, valid, token: `${input}.${part(signature)}` });
};
for (const alg of ['HS256', 'HS384', 'HS512', 'RS256', 'ES256', 'EdDSA']) {
  for (const n of [1, 2, 3, 4]) {
    const input = `${text({ alg, typ: 'JWT', kid: `${alg}-key` })}.${text(claims(n))}`;
    judge(alg, 'as it is', input, sign(alg, Buffer.from(input)));
  }
  const input = `${text({ alg })}.${text(claims(5))}`;
  const signature = sign(alg, Buffer.from(input));
  const other = `${text({ alg })}.${text({ ...claims(5), sub: 'admin' })}`;
  judge(alg, 'of other claims', other, signature);
  judge(alg, 'a byte shorter', input, signature.subarray(1));
  judge(alg, 'a byte longer', input, Buffer.concat([signature, Buffer.from([0])]));
  judge(alg, 'with a zero in front', input, Buffer.concat([Buffer.from([0]), signature]));
  judge(alg, 'nothing but zeros', input, Buffer.alloc(signature.length));
  for (const at of [0, 7, 31, 32, 33, signature.length - 1]) {
    if (at >= signature.length) continue;
    const damaged = Buffer.from(signature);
    damaged[at] ^= 1;
    judge(alg, `with byte ${at} damaged`, input, damaged);
  }
  if (alg === 'RS256') {
    const key = pairs.RS256.privateKey;
    const data = Buffer.from(input);
    judge(alg, 'of RS512', input, crypto.sign('sha512', data, key));
    judge(alg, 'of PS256', input, crypto.sign('sha256', data, { key, padding: crypto.constants.RSA_PKCS1_PSS_PADDING }));
    judge(alg, 'of the hash without its name', input, crypto.privateEncrypt(key, crypto.hash('sha256', data, 'buffer')));
    const modulus = number(Buffer.from(pairs.RS256.publicKey.export({ format: 'jwk' }).n, 'base64url'));
    const plus = number(signature) + modulus;
    if (plus < 2n ** 2048n) judge(alg, 'plus the modulus', input, bytes(plus, 256));
    judge(alg, 'one', input, bytes(1n, 256));
  }
  if (alg === 'ES256') {
    judge(alg, 'with the other s', input, Buffer.concat([half(signature, 0), bytes(P256_ORDER - number(half(signature, 1)), 32)]));
    judge(alg, 'in DER', input, crypto.sign('sha256', Buffer.from(input), pairs.ES256.privateKey));
    judge(alg, 'with r of zero', input, Buffer.concat([Buffer.alloc(32), half(signature, 1)]));
    judge(alg, 'with s of zero', input, Buffer.concat([half(signature, 0), Buffer.alloc(32)]));
    judge(alg, 'with s of the order', input, Buffer.concat([half(signature, 0), bytes(P256_ORDER, 32)]));
    judge(alg, 'with both of the order', input, Buffer.concat([bytes(P256_ORDER, 32), bytes(P256_ORDER, 32)]));
  }
  if (alg === 'EdDSA') {
    const s = number(half(signature, 1), 'le');
    judge(alg, 'with s plus the order', input, Buffer.concat([half(signature, 0), bytes(s + ED25519_ORDER, 32, 'le')]));
    judge(alg, 'with s of zero', input, Buffer.concat([half(signature, 0), Buffer.alloc(32)]));
  }
}
const input = `${text({ alg: 'RS256' })}.${text(claims(6))}`;
const signed = `${input}.${part(crypto.sign('sha256', Buffer.from(input), large.privateKey))}`;

// Who has the private key can make a signature whose first half is a point of small order. OpenSSL takes it.
const strict = (() => {
  const input = `${text({ alg: 'EdDSA' })}.${text(claims(7))}`;
  const jwk = pairs.EdDSA.privateKey.export({ format: 'jwk' });
  const hash = (...parts) => crypto.createHash('sha512').update(Buffer.concat(parts)).digest();
  const scalar = hash(Buffer.from(jwk.d, 'base64url')).subarray(0, 32);
  scalar[0] &= 248;
  scalar[31] = (scalar[31] & 63) | 64;
  const r = Buffer.from([1, ...Array(31).fill(0)]);
  const challenge = number(hash(r, Buffer.from(jwk.x, 'base64url'), Buffer.from(input)), 'le');
  const s = (challenge * number(scalar, 'le')) % ED25519_ORDER;
  const signature = Buffer.concat([r, bytes(s, 32, 'le')]);
  return { valid: holds('EdDSA', Buffer.from(input), signature), token: `${input}.${part(signature)}` };
})();

const keys = Object.entries(pairs).map(([alg, pair]) => (
  { alg, pem: pem(pair), jwk: pair.publicKey.export({ format: 'jwk' }) }));
process.stdout.write(`${JSON.stringify({ secret, keys, refused, large: { pem: pem(large), token: signed }, strict, tokens }, null, 1)}\n`);

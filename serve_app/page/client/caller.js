// What the API key may do.

/** The key's tenant and scopes, asked for once per key. The signal `grants` has the scopes. */
export class Caller {
  #api;
  #grants;
  #asked = null;

  constructor(api, grants) {
    this.#api = api;
    this.#grants = grants;
  }

  /** `{key_id, tenant, scopes, grants, endpoints}`. Throws like `Api.call`. */
  async look() {
    this.#asked ??= this.#api.call("GET", "v1/keys/self");
    const asked = this.#asked;
    try {
      const caller = await asked;
      if (this.#asked === asked) this.#grants.value = caller.grants;
      return caller;
    } catch (error) {
      if (this.#asked === asked) this.#asked = null;
      throw error;
    }
  }

  /** True if the key has the scope `operator`; false also while Darkroom does not answer. */
  isOperator() {
    return this.look().then(
      ({ grants }) => grants.includes("operator"),
      () => false,
    );
  }

  /** Forgets the key, as when another one is used. */
  forget() {
    this.#asked = null;
    this.#grants.value = [];
  }
}

"""fal's endpoints whose weights are open, and the class of diffusers that runs them."""

from __future__ import annotations

_IDS = {
    "AuraFlowPipeline": "aura-flow",
    "CogVideoXPipeline": "cogvideox-5b",
    "CogVideoXImageToVideoPipeline": "cogvideox-5b/image-to-video",
    "CogVideoXVideoToVideoPipeline": "cogvideox-5b/video-to-video",
    "CogView4Pipeline": "cogview4",
    "Cosmos2_5_PredictBasePipeline": "cosmos-predict-2.5/text-to-video",
    "AnimateDiffPipeline": "fast-animatediff/text-to-video",
    "AnimateDiffVideoToVideoPipeline": "fast-animatediff/video-to-video",
    "StableDiffusionXLPipeline": "dreamshaper realistic-vision playground-v25",
    "StableDiffusionXLImg2ImgPipeline": "playground-v25/image-to-image",
    "StableDiffusionXLInpaintPipeline": "playground-v25/inpainting",
    "StableDiffusionXLControlNetPipeline": "fast-sdxl-controlnet-canny",
    "StableDiffusionXLControlNetImg2ImgPipeline": "fast-sdxl-controlnet-canny/image-to-image",
    "StableDiffusionXLControlNetInpaintPipeline": "fast-sdxl-controlnet-canny/inpainting",
    "StableDiffusionPipeline": "stable-diffusion-v15",
    "StableDiffusion3Pipeline": (
        "stable-diffusion-v3-medium stable-diffusion-v35-large stable-diffusion-v35-medium"
    ),
    "StableDiffusion3Img2ImgPipeline": "stable-diffusion-v3-medium/image-to-image",
    "StableCascadeCombinedPipeline": "stable-cascade",
    "StableVideoDiffusionPipeline": "stable-video",
    "Flux2Pipeline": (
        "flux-2 flux-2/edit flux-2/lora flux-2/lora/edit flux-2/turbo flux-2/turbo/edit"
    ),
    "Flux2KleinPipeline": (
        "flux-2/klein/4b/base flux-2/klein/4b/base/edit flux-2/klein/4b/edit "
        "flux-2/klein/4b/edit/lora flux-2/klein/4b/lora flux-2/klein/9b flux-2/klein/9b/base "
        "flux-2/klein/9b/base/edit flux-2/klein/9b/base/edit/lora flux-2/klein/9b/base/lora "
        "flux-2/klein/9b/edit flux-2/klein/9b/edit/lora flux-2/klein/9b/lora"
    ),
    "FluxPipeline": "flux/krea flux-krea-lora",
    "FluxImg2ImgPipeline": (
        "flux/krea/image-to-image flux-krea-lora/image-to-image flux-lora/image-to-image"
    ),
    "FluxInpaintPipeline": "flux-krea-lora/inpainting",
    "FluxReduxPipeline": (
        "flux/krea/redux flux/schnell/redux flux-1/dev/redux flux-1/krea/redux flux-1/schnell/redux"
    ),
    "FluxFillPipeline": "flux-lora-fill",
    "FluxControlPipeline": (
        "flux-control-lora-canny flux-control-lora-depth flux-lora-canny flux-lora-depth"
    ),
    "FluxKontextPipeline": "flux-kontext/dev flux-kontext-lora",
    "HunyuanVideoFramepackPipeline": "framepack framepack/flf2v",
    "GlmImagePipeline": "glm-image glm-image/image-to-image",
    "HiDreamImagePipeline": "hidream-i1-dev hidream-i1-fast hidream-i1-full",
    "HunyuanImagePipeline": "hunyuan-image/v2.1/text-to-image",
    "HunyuanVideoPipeline": "hunyuan-video-lora",
    "HunyuanVideoImageToVideoPipeline": "hunyuan-video-img2vid-lora",
    "HunyuanVideo15Pipeline": "hunyuan-video-v1.5/text-to-video",
    "HunyuanVideo15ImageToVideoPipeline": "hunyuan-video-v1.5/image-to-video",
    "Kandinsky5T2VPipeline": "kandinsky5/text-to-video kandinsky5/text-to-video/distill",
    "KolorsPipeline": "kolors",
    "KolorsImg2ImgPipeline": "kolors/image-to-image",
    "LatentConsistencyModelPipeline": "lcm",
    "LatentConsistencyModelImg2ImgPipeline": "lcm-sd15-i2i",
    "LongCatImagePipeline": "longcat-image",
    "LongCatImageEditPipeline": "longcat-image/edit",
    "LTXPipeline": "ltx-video-lora ltx-video-v095 ltx-video-v097",
    "LTXImageToVideoPipeline": (
        "ltx-video-lora/image-to-video ltx-video-v095/image-to-video ltx-video-v097/image-to-video"
    ),
    "LTXConditionPipeline": (
        "ltx-video-lora/multiconditioning ltx-video-v095/multiconditioning"
        " ltx-video-v097/multiconditioning"
    ),
    "LTX2Pipeline": "ltx-2.3/text-to-video ltx-2.3/text-to-video/fast ltx-2/text-to-video/fast",
    "LTX2ImageToVideoPipeline": (
        "ltx-2.3/image-to-video ltx-2.3/image-to-video/fast ltx-2/image-to-video "
        "ltx-2/image-to-video/fast"
    ),
    "Lumina2Pipeline": "lumina-image/v2",
    "MochiPipeline": "mochi-v1",
    "OmniGenPipeline": "omnigen-v1",
    "OvisImagePipeline": "ovis-image",
    "PixArtSigmaPipeline": "pixart-sigma",
    "QwenImagePipeline": "qwen-image-2512 qwen-image-2512/lora",
    "QwenImageImg2ImgPipeline": "qwen-image/image-to-image",
    "QwenImageEditPipeline": "qwen-image-edit qwen-image-edit-lora",
    "QwenImageLayeredPipeline": "qwen-image-layered qwen-image-layered/lora",
    "MarigoldDepthPipeline": "imageutils/marigold-depth",
    "QwenImageEditInpaintPipeline": "qwen-image-edit/inpaint",
    "QwenImageEditPlusPipeline": (
        "qwen-image-edit-2509 qwen-image-edit-2509-lora qwen-image-edit-2511 "
        "qwen-image-edit-2511/lora qwen-image-edit-plus qwen-image-edit-plus-lora"
    ),
    "SanaPipeline": "sana sana/v1.5/1.6b sana/v1.5/4.8b",
    "SanaSprintPipeline": "sana/sprint",
    "SanaVideoPipeline": "sana-video",
    "StableAudio3AudioToAudioPipeline": "stable-audio-25/audio-to-audio",
    "WanPipeline": (
        "wan-t2v-lora wan/v2.2-5b/text-to-video/distill wan/v2.2-5b/text-to-video/fast-wan "
        "wan/v2.2-a14b/text-to-video/lora krea-wan-14b/text-to-video wan-alpha"
    ),
    "WanImageToVideoPipeline": "wan-flf2v wan-i2v-lora wan/v2.2-a14b/image-to-video/lora",
    "WanVideoToVideoPipeline": "wan/v2.2-a14b/video-to-video krea-wan-14b/video-to-video",
    "WanVACEPipeline": "wan-vace-14b wan-vace-1-3b",
    "WanAnimate2ModularPipeline": "wan/v2.2-14b/animate/move",
    "ZImagePipeline": "z-image/base z-image/base/lora z-image/turbo/lora",
    "ZImageImg2ImgPipeline": "z-image/turbo/image-to-image z-image/turbo/image-to-image/lora",
    "ZImageInpaintPipeline": "z-image/turbo/inpaint z-image/turbo/inpaint/lora",
    "ZImageControlNetPipeline": "z-image/turbo/controlnet z-image/turbo/controlnet/lora",
}

OPEN_ENDPOINTS = {f"fal-ai/{id_}": name for name, ids in _IDS.items() for id_ in ids.split()}
"""Id → class. Those of the built-in catalogue are not among them."""
